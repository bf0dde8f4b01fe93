"""Store: a folder of immutable objects, on a local disk or in object storage, over fsspec.

One layer of retries, ours: the ones inside botocore and s3fs are switched off, so that every failed request
is counted, the wait is bounded, and a transfer that is cut goes on where it broke off. Credentials and the
endpoint come from the standard AWS chain (environment, profile, instance role) and from nowhere else.
"""

import contextlib
import os
import random
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from pipeline import telemetry, waiting
from pipeline.atomic import is_partial, scratch_folder, write_file
from pipeline.errors import UserError
from pipeline.faults import MissingBucketError, ShortBodyError, explain, is_conflict, one_line
from pipeline.format.manifest import MANIFEST_NAME, Manifest

_PIECE_BYTES = 16 * 2**20  # one request; also what an upload holds in memory, times _NUM_UPLOADS
_MIN_PIECE_BYTES = 256 * 2**10
_NUM_UPLOADS = 4
_CONNECT_TIMEOUT_S = 4
_READ_TIMEOUT_S = 30
_PATIENCE_S = 60.0  # an endpoint that has answered before is restarting or busy: wait for it
_PATIENCE_NEVER_REACHED_S = 8.0  # one that never has is probably a typing mistake: say so soon
_MAX_PAUSE_S = 8.0

_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 32,
        # The manifest's SHA-256 covers every byte; many servers that speak S3 lack the newer checksums.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
}

# A forked child must not even close the connections that it inherits: it shares the event queue of its parent and
# would remove them from it, upon which the parent waits in vain for its next answer. So it keeps them for ever.
_clients: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_inherited: list[Any] = []
os.register_at_fork(after_in_child=lambda: _inherited.extend(_clients.values()))

R = TypeVar("R")


class StoreError(UserError):
    """A store cannot be read or written; the message names the object and the cause."""


class MissingObjectError(StoreError):
    """There is no object of that name."""


class Store:
    """The objects below one URL: a local path, `file://`, `s3://bucket/prefix` or any that fsspec knows.

    Names are relative, with `/`. Every method raises `StoreError` once it gives up. Instances are cheap, may
    be shared by threads, pickled, and used on both sides of a fork.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        self._pid = 0
        self._reached = self._has_been_read = False
        self._connect()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.url,)

    def _connect(self) -> Any:
        """The file system; a new one after a fork, which event loops do not survive."""
        if self._pid != os.getpid():
            protocol = fsspec.utils.get_protocol(self.url)
            options = _S3_OPTIONS if protocol in ("s3", "s3a") else {}
            try:
                self._fs, self._root = fsspec.core.url_to_fs(
                    self.url, skip_instance_cache=True, use_listings_cache=False, **options
                )
            except (ImportError, ValueError) as error:
                raise StoreError(f"cannot use {self.url} as a store: {one_line(error)}") from None
            if options:
                self._fs.retries = 1
                _clients[id(self._fs)] = self._fs
            self._root = self._root.rstrip("/")
            self._is_local, self._is_s3 = protocol in ("file", "local"), bool(options)
            self._pid = os.getpid()
        return self._fs

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def local_path(self, name: str) -> Path | None:
        """The file itself where the store is a local folder, else None."""
        return Path(self._path(name)) if self._is_local else None

    def scratch_folder(self) -> contextlib.AbstractContextManager[Path]:
        """A temporary folder for files that will be `put_new`: in a local store, from where they can be linked."""
        return scratch_folder(self.local_path(""))

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return self._info(name) is not None

    def size(self, name: str) -> int:
        """Size of an object in bytes."""

        def ask() -> int | None:
            try:
                info = self._connect().info(self._path(name))
            except FileNotFoundError:
                if self._is_s3 and not self._connect().exists(self._root.partition("/")[0]):
                    raise MissingBucketError from None
                return None
            return int(info["size"]) if info["type"] == "file" else None

        num_bytes = self._request("read", name, ask)
        if num_bytes is None:
            raise MissingObjectError(f"cannot read {self._full(name)}: there is no such object")
        self._has_been_read = True
        return num_bytes

    def read(self, name: str) -> bytes:
        """A whole object; for small ones."""
        return self.read_range(name, 0, self.size(name))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start` on."""
        return b"".join(self._pieces(name, start, length))

    def download(self, name: str, path: str | Path) -> None:
        """Copy an object into a local file, piece by piece; a cut transfer goes on where it broke off."""
        pieces = self._pieces(name, 0, self.size(name))
        try:
            with open(path, "wb") as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            fault = explain(error)
            raise StoreError(f"cannot write {path}: {fault.cause if fault else error}") from None

    def list(self, prefix: str = "") -> list[str]:
        """Names of all objects that begin with `prefix`, sorted; none where there is nothing."""
        folder = prefix.rpartition("/")[0]

        def find() -> list[str]:
            try:
                return list(self._connect().find(self._path(folder)))
            except FileNotFoundError:
                return []

        paths = self._request("list", prefix, find)
        names = (path[len(self._root) + 1 :] for path in paths)
        return sorted(name for name in names if name and name.startswith(prefix) and not is_partial(name))

    def put(self, name: str, source: bytes | Path) -> None:
        """Write an object; one of that name is replaced, atomically."""
        self._request("write", name, lambda: self._put(name, source, replace=True))

    def put_new(self, name: str, source: bytes | Path) -> bool:
        """Write an object unless one of that name exists; of several writers one wins. False: it existed.

        On S3 this is `If-None-Match: *`. Other remote file systems check first, which is not atomic. A local file
        may be linked instead of copied: leave it alone afterwards.
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
        """Remove an object; it is no error if there is none."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._connect().rm_file(self._path(name))

        self._request("delete", name, remove)

    def _info(self, name: str) -> dict[str, Any] | None:
        def ask() -> dict[str, Any] | None:
            try:
                info: dict[str, Any] = self._connect().info(self._path(name))
            except FileNotFoundError:
                return None
            return info if info["type"] == "file" else None

        return self._request("read", name, ask)

    def _pieces(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The range, one request at a time; a failure halves the next, so a bad link still delivers."""
        position, end, step = start, start + length, _PIECE_BYTES

        def fetch() -> bytes:
            nonlocal step
            wanted = min(step, end - position)
            try:
                data: bytes = self._connect().cat_file(self._path(name), start=position, end=position + wanted)
            except Exception:
                step = max(step // 2, _MIN_PIECE_BYTES)
                raise
            if len(data) != wanted:
                raise ShortBodyError(f"it ends before byte {position + wanted}")
            return data

        while position < end:
            with telemetry.STORE_READ_SECONDS.time():
                piece = self._request("read", name, fetch)
            telemetry.STORE_READ_BYTES.inc(len(piece))
            position += len(piece)
            yield piece

    def _put(self, name: str, source: bytes | Path, replace: bool) -> None:
        fs, path = self._connect(), self._path(name)
        if self._is_local:
            write_file(Path(path), source, replace)
            return
        options: dict[str, Any] = {"mode": "overwrite" if replace else "create"}
        if self._is_s3:
            options |= {"chunksize": _PIECE_BYTES, "max_concurrency": _NUM_UPLOADS}
        if isinstance(source, bytes):
            fs.pipe_file(path, source, **options)
        else:
            fs.put_file(str(source), path, **options)

    def _request(self, verb: str, name: str, request: Callable[[], R]) -> R:
        """Run `request`, again after transient faults (full jitter), until it succeeds or patience ends."""
        attempt, failing_since_s = 0, 0.0
        while True:
            attempt += 1
            try:
                result = request()
            except Exception as error:
                fault = explain(error)
                if fault is None:
                    raise
                transient = fault.transient or (fault.kind == "bucket" and self._has_been_read)
                telemetry.STORE_ERRORS.labels(kind=fault.kind).inc()
                now_s = time.monotonic()
                failing_since_s = failing_since_s or now_s
                pause_s = fault.retry_after_s + random.uniform(0, min(_MAX_PAUSE_S, 0.1 * 2**attempt))
                never_reached = fault.kind == "connection" and not self._reached
                patience_s = _PATIENCE_NEVER_REACHED_S if never_reached else _PATIENCE_S
                if not transient or now_s + pause_s > failing_since_s + patience_s:
                    tries = f" (gave up after {attempt} tries)" if attempt > 1 else ""
                    refusal = MissingObjectError if fault.kind == "bucket" else StoreError
                    raise refusal(f"cannot {verb} {self._full(name)}: {fault.cause}{tries}") from None
                with waiting.phase(f"pause before try {attempt + 1} to {verb} {self._full(name)}: {fault.cause}"):
                    time.sleep(pause_s)
            else:
                self._reached = True
                return result

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set in `store`.

    Raises:
        StoreError: it cannot be read; where there is none, the message says what that means.
        ManifestError: its content is wrong.
    """
    try:
        content = store.read(MANIFEST_NAME)
    except MissingObjectError as error:
        raise MissingObjectError(
            f"{store.url} holds no {MANIFEST_NAME}: it is no data set, or its build has not finished; "
            f"run 'shard-builder build' (again) with this destination ({error})"
        ) from None
    return Manifest.from_bytes(content, f"{store.url}/{MANIFEST_NAME}")
