"""Store: a folder of immutable objects, on a local disk or in object storage, over fsspec.

The only layer of retries is ours (`pipeline.store.retry`); those of botocore and s3fs are switched off. So every failed
request is counted, the wait is bounded, and a broken connection loses one part only. Credentials and the endpoint come
from the standard AWS chain only (environment, profile, instance role).
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline import telemetry
from pipeline.errors import UserError
from pipeline.prefetch import prefetch
from pipeline.store import ranges
from pipeline.store.atomic import is_partial, scratch_folder, write_file
from pipeline.store.client import Client
from pipeline.store.faults import MissingBucketError, explain, is_conflict, is_missing, one_line
from pipeline.store.ranges import Version
from pipeline.store.retry import GaveUpError, Retries

_PART_BYTES = 8 * 2**20  # per request
_MIN_PART_BYTES = 256 * 2**10
_NUM_PARTS = 4  # parts of an object that are requested at once and held in memory
_UPLOAD_PART_BYTES = 16 * 2**20  # _NUM_PARTS of them are held in memory
_MAX_LIST_BYTES = 2**20  # of an answer; only its limit in time depends on it
R = TypeVar("R")


class StoreError(UserError):
    """A store cannot be read or written; the message names the object and the cause."""


class MissingObjectError(StoreError):
    """There is no object of this name."""


class ReplacedObjectError(StoreError):
    """Another object has replaced this one since its first part was read."""


class Store:
    """The objects below one URL: a local path, `file://`, `s3://bucket/prefix` or any other URL that fsspec knows.

    Names are relative, with `/`. Every method raises `StoreError` once it gives up. Instances are cheap, may be shared
    by threads, pickled, and used on both sides of a fork. `new_client` is for measurements of other clients.
    """

    def __init__(self, url: str | Path, new_client: Callable[[str], Client] = Client) -> None:
        text = str(url)
        is_bare = re.fullmatch(r"/*|[a-z0-9+]+:/*", text)  # nothing is left after these slashes
        self.url = text[:1] if is_bare and text[:1] == "/" else text if is_bare else text.rstrip("/")
        self._retries, self._new_client = Retries(), new_client
        self._client = self._open_client()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[type["Store"], tuple[str, Callable[[str], Client]]]:
        return Store, (self.url, self._new_client)

    def _open_client(self) -> Client:
        try:
            return self._new_client(self.url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"cannot use {self.url or repr(self.url)} as a store: {one_line(error)}") from None

    def _connect(self) -> Client:
        """The client of this process."""
        if self._client.pid != os.getpid():
            self._client = self._open_client()
        return self._client

    def _path(self, name: str) -> str:
        return f"{self._client.root}/{name}" if name else self._client.root

    def local_path(self, name: str) -> Path | None:
        """The path of the object if the store is a local folder, else None."""
        return Path(self._path(name)) if self._client.is_local else None

    @contextlib.contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A temporary folder for files for `put_new`. A local store has it inside, so that files can be linked."""
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(scratch_folder(self.local_path("")))
            except OSError as error:
                raise StoreError(f"cannot write {self.url}: {one_line(error)}") from None
            yield folder

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self._info(name) is not None

    def size(self, name: str) -> int:
        """Size of an object in bytes."""

        def ask() -> int | None:
            try:
                info = self._connect().call("info", self._path(name))
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise
                if self._client.is_s3 and not self._client.call("exists", self._client.root.partition("/")[0]):
                    raise MissingBucketError from None
                return None
            return int(info["size"]) if info["type"] == "file" else None

        num_bytes = self._request("read", name, ask)
        if num_bytes is None:
            raise MissingObjectError(f"cannot read {self._full(name)}: there is no such object")
        self._retries.has_been_read = True
        return num_bytes

    def read(self, name: str) -> bytes:
        """A whole object, for small objects."""
        return b"".join(self.parts(name))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start` on."""
        return b"".join(self.parts(name, start, start + length))

    def download(self, name: str, path: str | Path) -> None:
        """Copy an object into a local file."""
        with self.writing(path) as file:
            for part in self.parts(name):
                file.write(part)

    @contextlib.contextmanager
    def writing(self, path: str | Path) -> Iterator[BinaryIO]:
        """A new local file to download to. Errors of the disk become `StoreError`s too."""
        try:
            with open(path, "wb") as file:
                yield file
        except OSError as error:
            fault = explain(error)
            raise StoreError(f"cannot write {path}: {fault.cause if fault else error}") from None

    def parts(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes of an object from `start` to `stop`, in order, `_NUM_PARTS` requests at a time.

        Each part is retried separately. If the store has ETags, all parts are of one version of the object.

        Raises:
            ReplacedObjectError: another version has replaced the object since the first part.
        """
        first_stop = min(start + _PART_BYTES, stop) if stop is not None else start + _PART_BYTES
        first, version = self._part(name, start, first_stop, None)
        if stop is None:
            stop = version.num_bytes
        if stop > version.num_bytes:
            raise StoreError(f"cannot read {self._full(name)}: it ends before byte {stop}")
        starts = range(first_stop, stop, _PART_BYTES)

        def fetch(begin: int) -> bytes:
            return self._part(name, begin, min(begin + _PART_BYTES, stop), version)[0] if begin > start else first

        yield from prefetch(
            fetch, [start, *starts], _NUM_PARTS, _NUM_PARTS - 1, "fetch-parts", lambda begin: begin == start
        )

    def list(self, prefix: str = "") -> list[str]:
        """Names of all objects that begin with `prefix`, sorted; an empty list if there are none."""
        folder = prefix.rpartition("/")[0]

        def find() -> list[str]:
            client = self._connect()
            # By default fsspec treats an unreadable folder as empty. s3fs lists everything at once and needs no option.
            options = {} if client.is_s3 else {"on_error": "raise"}
            try:
                return list(client.call("find", self._path(folder), num_bytes=_MAX_LIST_BYTES, **options))
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise
                return []

        paths = self._request("list", prefix, find)
        names = (path[len(self._client.root) + 1 :] for path in paths)
        return sorted(name for name in names if name and name.startswith(prefix) and not is_partial(name))

    def put(self, name: str, source: bytes | Path) -> None:
        """Write an object; an existing object of this name is replaced atomically."""
        self._request("write", name, lambda: self._put(name, source, replace=True))

    def put_new(self, name: str, source: bytes | Path) -> bool:
        """Write an object unless the name exists; of several writers, one wins. False: the name existed.

        On S3 this is `If-None-Match: *`. Other remote file systems check first, which is not atomic. A local file may
        be linked instead of copied: do not change it afterwards.
        """

        def create() -> bool:
            try:
                self._put(name, source, replace=False)
            except Exception as error:
                if not is_conflict(error):
                    raise
                return False
            return True

        return self._request("write", name, create)

    def delete(self, name: str) -> None:
        """Remove an object. A missing object is no error."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._connect().call("rm_file", self._path(name))

        self._request("delete", name, remove)

    def _info(self, name: str) -> dict[str, Any] | None:
        def ask() -> dict[str, Any] | None:
            try:
                info: dict[str, Any] = self._connect().call("info", self._path(name))
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise
                return None
            return info if info["type"] == "file" else None

        return self._request("read", name, ask)

    def _part(self, name: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
        """The range, or fewer bytes if the object ends before. A failure halves the next request, so that even a bad
        connection makes progress."""
        step, chunks = stop - start, list[bytes]()

        def fetch() -> tuple[bytes, Version]:
            nonlocal step
            end = min(start + step, stop)
            try:
                return ranges.get(self._connect(), self._path(name), start, end, version)
            except Exception:
                step = max(step // 2, _MIN_PART_BYTES)
                raise

        while True:
            with telemetry.STORE_READ_SECONDS.time():
                data, version = self._request("read", name, fetch)
            telemetry.STORE_READ_BYTES.inc(len(data))
            self._retries.has_been_read = True
            chunks.append(data)
            start += len(data)
            if start >= min(stop, version.num_bytes):
                return b"".join(chunks), version

    def _put(self, name: str, source: bytes | Path, replace: bool) -> None:
        client, path = self._connect(), self._path(name)
        if client.is_local:
            write_file(Path(path), source, replace)
            return
        options: dict[str, Any] = {"mode": "overwrite" if replace else "create"}
        if client.is_s3:
            options |= {"chunksize": _UPLOAD_PART_BYTES, "max_concurrency": _NUM_PARTS}
        if isinstance(source, bytes):
            client.call("pipe_file", path, source, num_bytes=len(source), **options)
        else:
            client.call("put_file", str(source), path, num_bytes=source.stat().st_size, **options)

    def _request(self, verb: str, name: str, request: Callable[[], R]) -> R:
        """Run `request` with retries; once they give up, raise a `StoreError` with one sentence."""
        try:
            return self._retries.run(request, f"{verb} {self._full(name)}")
        except GaveUpError as error:
            fault, tries = error.fault, f" (gave up after {error.num_tries} tries)" if error.num_tries > 1 else ""
            refusal = _REFUSALS.get(fault.kind, StoreError)
            raise refusal(f"cannot {verb} {self._full(name)}: {fault.cause}{tries}") from None

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


_REFUSALS = {"bucket": MissingObjectError, "missing": MissingObjectError, "replaced": ReplacedObjectError}
