"""Parts of an object, read by range. Each request names the version of the object, so versions are never mixed."""

import os
import threading
from functools import partial
from typing import Any, NamedTuple

import fsspec

from pipeline.store.client import Client
from pipeline.store.faults import ShortBodyError, is_past_end
from pipeline.store.progress import answered, read_all

_MAX_REQUESTS = 16  # at once in this process, over all objects

_slots = threading.BoundedSemaphore(_MAX_REQUESTS)


def _new_slots() -> None:
    global _slots
    _slots = threading.BoundedSemaphore(_MAX_REQUESTS)


# In a forked child, slots taken by the parent's threads would never be released.
os.register_at_fork(after_in_child=_new_slots)


class Version(NamedTuple):
    """The version of an object. `etag` is empty if the store has no ETags."""

    num_bytes: int
    etag: str = ""


def get(client: Client, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    """Bytes `start` to `stop`, or fewer if the object ends before, in one request.

    On S3 the answer contains the size of the object. For other stores the first range of an object asks for the size.

    Raises:
        ShortBodyError: fewer bytes came than the object has.
        Exception: of the file system, see `pipeline.store.faults`; status 412 if `version` was replaced.
    """
    fs = client.fs
    with _slots:
        if client.is_s3:
            ask = partial(_get_s3, fs, path, start, stop, version)
            data, version = fsspec.asyn.sync(fs.loop, client.hedge.first_of, ask)
        else:
            data, version = _get_any(client, path, start, stop, version)
    if len(data) != max(min(stop, version.num_bytes) - start, 0):
        raise ShortBodyError(f"its answer ends after {len(data)} bytes")
    return data, version


async def _get_s3(fs: Any, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    bucket, key, _ = fs.split_path(path)
    condition = {"IfMatch": version.etag} if version and version.etag else {}
    request = fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition)
    try:
        answer = await answered(request)
    except OSError as error:
        if start == 0 and is_past_end(error):  # there is no first byte
            return b"", Version(0)
        raise
    async with answer["Body"] as body:
        data = await read_all(body.read)
    content_range = answer.get("ContentRange", f"/{len(data)}")  # missing if the answer is the whole object
    return data, Version(int(content_range.rpartition("/")[2]), answer.get("ETag", ""))


def _get_any(client: Client, path: str, start: int, stop: int, version: Version | None) -> tuple[bytes, Version]:
    if version is None:
        info = client.call("info", path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        version = Version(int(info["size"]))
    stop = min(stop, version.num_bytes)
    if stop <= start:
        return b"", version
    return client.call("cat_file", path, start=start, end=stop, num_bytes=stop - start), version
