"""Write one shard: read, check, pack, publish, mark as done. An engine runs one task per shard, and may repeat it."""

import contextlib
import errno
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.format.checksum import digest_bytes
from pipeline.format.index import index_to_bytes
from pipeline.format.shard_table import ShardEntry
from pipeline.format.sidecars import dali_name, energon_index, energon_name
from pipeline.format.tar import ShardWriter
from pipeline.store import Store, StoreError
from tools.shard_builder.build.images import DroppedImageError, ImagePolicy, RejectedImageError, prepare
from tools.shard_builder.build.journal import Reject, ShardResult, check_claim, mark_done, publish
from tools.shard_builder.build.plan import ShardPlan
from tools.shard_builder.readers import ByteSource, Record, UnusableError, readable

_TRANSIENT = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
}  # errors of a file server: try again before an image is rejected
_PAUSES_S = (0.1, 1.0, 5.0)


class ScratchError(StoreError):
    """A shard cannot be written in the temporary folder; the message names the folder."""


class ShardTask(NamedTuple):
    """The input of `write_shard`. It can be pickled to another process or machine."""

    shard: ShardPlan
    store: Store
    plan_digest: str
    images: ImagePolicy
    duplicates: Mapping[str, str]
    """Maps the key of a duplicate in this shard to the path of the image that is kept."""


class WrittenShard(NamedTuple):
    """The result of one shard, and the seconds per phase; the seconds are not part of the data set."""

    result: ShardResult
    seconds: Mapping[str, float]


def write_shard(task: ShardTask) -> WrittenShard:
    """Write the tar, the index and the sidecars of one shard, then the done marker, which commits the shard.

    Needs memory for one image, and disk space for one shard: in the destination if it is a local folder, else in the
    temporary folder (`TMPDIR`).

    Raises:
        ClaimError: the destination now belongs to another build.
        PublishError: the destination already holds this shard with other bytes.
        StoreError: the destination or the temporary folder cannot be written.
    """
    clock = _Clock()
    with task.store.scratch_folder() as scratch:
        tar = scratch / "shard.tar"
        try:
            with ShardWriter(tar) as writer:
                rejects = [reject for record in task.shard.records if (reject := _add(writer, record, task, clock))]
        except OSError as error:
            raise ScratchError(f"cannot write a shard in {scratch.parent}: {error.strerror}") from None
        with clock("publish"):
            check_claim(task.store, task.plan_digest)
            entry = _publish(task.store, task.shard.name, tar, writer) if len(writer.index) else None
            result = ShardResult(
                plan_digest=task.plan_digest, index=task.shard.index, entry=entry, rejects=tuple(rejects)
            )
            mark_done(task.store, result)
    return WrittenShard(result, clock.seconds)


class _Clock:
    """Adds up the seconds per phase."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started_s


def _add(writer: ShardWriter, record: Record, task: ShardTask, clock: _Clock) -> Reject | None:
    """Append the image, or return the reason why it is left out."""
    try:
        if kept := task.duplicates.get(record.key):
            raise DroppedImageError(f"duplicate of {kept}")
        with clock("read"):
            data = _read(record.source)
            metadata = _read(record.metadata) if record.metadata else b""
        with clock("check"):
            image = prepare(data, task.images)
    except UnusableError as error:
        reason, by_choice = str(error), False
    except OSError as error:
        reason, by_choice = f"cannot be read: {error.strerror or error}", False
    except RejectedImageError as error:
        reason, by_choice = str(error), False
    except DroppedImageError as error:
        reason, by_choice = str(error), True
    else:
        with clock("pack"):
            size = image.height, image.width
            writer.add(record.key, image.ext, image.data, record.label, *size, image.orientation, metadata)
        return None
    return Reject(key=record.key, path=readable(record.path), reason=readable(reason), by_choice=by_choice)


def _read(source: ByteSource) -> bytes:
    for pause_s in _PAUSES_S:
        try:
            return source.read()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            time.sleep(pause_s)
    return source.read()


def _publish(store: Store, name: str, tar: Path, writer: ShardWriter) -> ShardEntry:
    index = index_to_bytes(writer.index)
    entry = ShardEntry(
        name=name,
        num_bytes=writer.num_bytes,
        num_samples=len(writer.index),
        digest=writer.digest,
        index_digest=digest_bytes(index),
    )
    publish(store, entry.tar_name, tar, entry.digest)
    publish(store, entry.index_name, index, entry.index_digest)
    for sidecar, content in (dali_name(entry), writer.dali_index), (energon_name(entry), energon_index(writer.index)):
        publish(store, sidecar, content, digest_bytes(content))
    return entry
