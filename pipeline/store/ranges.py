"""Parts of an object, read by range: each says of which version it is, so that no two versions are ever mixed."""

import os
import threading
from functools import partial
from typing import Any, NamedTuple

import fsspec

from pipeline.store.client import Client
from pipeline.store.faults import ShortBodyError, is_past_end

_MAX_REQUESTS = 16  # of this process at once, over all objects

_slots = threading.BoundedSemaphore(_MAX_REQUESTS)


def _new_slots() -> None:
    global _slots
    _slots = threading.BoundedSemaphore(_MAX_REQUESTS)


# Those that were taken in the parent are never given back in the child.
os.register_at_fork(after_in_child=_new_slots)


class Version(NamedTuple):
    """The object that a range was read from. `etag` is empty where the store has none."""

    num_bytes: int
    etag: str = ""


def get(client: Client, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    """Bytes `start` to `stop`, fewer where the object ends before, in one request.

    On S3 the answer tells the size, so that no other request has to; elsewhere the first range of an object asks.

    Raises:
        ShortBodyError: fewer came than the object has.
        Exception: those of the file system, which `pipeline.store.faults` explains; 412 where `version` is gone.
    """
    fs = client.fs
    with _slots:
        if client.is_s3:
            ask = partial(_get_s3, fs, path, start, stop, version)
            data, version = fsspec.asyn.sync(fs.loop, client.hedge.first_of, ask)
        else:
            data, version = _get_any(fs, path, start, stop, version)
    if len(data) != max(min(stop, version.num_bytes) - start, 0):
        raise ShortBodyError(f"its answer ends after {len(data)} bytes")
    return data, version


async def _get_s3(fs: Any, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    bucket, key, _ = fs.split_path(path)
    condition = {"IfMatch": version.etag} if version and version.etag else {}
    try:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition)
    except OSError as error:
        if start == 0 and is_past_end(error):  # there is no first byte
            return b"", Version(0)
        raise
    async with answer["Body"] as body:
        data = await body.read()
    content_range = answer.get("ContentRange", f"/{len(data)}")  # absent where the answer is the whole object
    return data, Version(int(content_range.rpartition("/")[2]), answer.get("ETag", ""))


def _get_any(fs: Any, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    if version is None:
        info = fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        version = Version(int(info["size"]))
    stop = min(stop, version.num_bytes)
    return (fs.cat_file(path, start=start, end=stop) if stop > start else b""), version
