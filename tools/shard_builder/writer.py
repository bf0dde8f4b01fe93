"""Writing one shard: read, inspect, pack, publish, mark as done. Idempotent, and the unit that a runner runs."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.format.index import index_to_bytes
from pipeline.format.manifest import ShardEntry
from pipeline.format.tar import ShardWriter
from pipeline.store import Store
from tools.shard_builder.images import RejectedImageError, inspect
from tools.shard_builder.plan import ShardPlan
from tools.shard_builder.readers import Reader, Record

DONE_FOLDER = "_build/done/"


class PublishError(UserError):
    """The destination holds other bytes under a name that this build has to write."""


class Reject(Config):
    """An image that is in the source but in no shard, and why."""

    key: str
    path: str
    """Relative to the source."""
    reason: str


class ShardResult(Config):
    """The content of a done marker."""

    index: int
    """Of the shard in the plan."""
    entry: ShardEntry | None
    """None where every image of the shard was rejected: then there is no shard."""
    rejects: tuple[Reject, ...]


class ShardTask(NamedTuple):
    """Everything that `write_shard` needs, in a form that can be sent to another process or machine."""

    shard: ShardPlan
    reader: Reader
    store: Store


def write_shard(task: ShardTask) -> ShardResult:
    """Write the tar and the index of one shard, then its done marker, which commits it.

    Needs the disk space of one shard in the temporary folder (`TMPDIR`) and the memory of one image.

    Raises:
        PublishError: the destination already holds this shard with other bytes.
        StoreError: the destination cannot be written.
    """
    shard, reader, store = task
    with tempfile.TemporaryDirectory(prefix="shard-builder-") as scratch:
        tar = Path(scratch) / "shard.tar"
        rejects = []
        with ShardWriter(tar) as writer:
            for record in shard.records:
                if reason := _add(writer, reader, record):
                    rejects.append(Reject(key=record.key, path=record.path, reason=reason))
        entry = None
        if len(writer.index):
            index = index_to_bytes(writer.index)
            entry = ShardEntry(
                name=shard.name,
                num_bytes=writer.num_bytes,
                num_samples=len(writer.index),
                sha256=writer.sha256,
                index_sha256=sha256_bytes(index),
            )
            publish(store, entry.tar_name, tar, entry.sha256)
            publish(store, entry.index_name, index, entry.index_sha256)
    result = ShardResult(index=shard.index, entry=entry, rejects=tuple(rejects))
    store.put(done_name(shard), result.model_dump_json().encode())
    return result


def done_name(shard: ShardPlan) -> str:
    """Where the done marker of a shard lies."""
    return f"{DONE_FOLDER}{shard.index:06d}.json"


def publish(store: Store, name: str, source: bytes | Path, sha256: str) -> None:
    """Create an object; where a killed or a concurrent build has made it before, check that it is the same.

    Raises:
        PublishError: it is not.
    """
    if store.put_new(name, source):
        return
    with tempfile.NamedTemporaryFile(prefix="shard-builder-") as existing:
        store.download(name, existing.name)
        if sha256_file(existing.name) != sha256:
            raise PublishError(
                f"{store.url}/{name} exists with other content: the source has changed since that build began; "
                "build into an empty destination"
            )


def _add(writer: ShardWriter, reader: Reader, record: Record) -> str | None:
    """Append the image, or return the reason why it is rejected."""
    try:
        data = reader.read(record)
        header = inspect(data)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except RejectedImageError as error:
        return str(error)
    if len(data) != record.num_bytes:
        return f"its size changed during the build, from {record.num_bytes} to {len(data)} bytes"
    writer.add(record.key, header.ext, data, record.label, header.height, header.width, header.orientation)
    return None
