"""The plan of a build: which image goes into which shard, decided before any image is read.

The plan is a pure function of the records and the options: no clock, host or absolute path. Its digest identifies the
build: two builders with the same digest write the same bytes, so a killed build can be resumed.
"""

import hashlib
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL

from pipeline.errors import UserError
from tools.shard_builder.build.images import AS_THEY_ARE, ImagePolicy
from tools.shard_builder.readers import Lost, MetadataSource, Other, Record, Seen, UnusableSource
from tools.shard_builder.readers.file_kinds import CONVERTED_SUFFIXES, suffix_of
from tools.shard_builder.readers.wording import listed, tally

FORMAT_VERSION = 2  # increase it when the same records and options give other bytes


class PlanError(UserError):
    """No plan can be made from these records."""


@dataclass(frozen=True)
class ShardPlan:
    """The images of one shard, in order."""

    index: int
    name: str
    records: tuple[Record, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the samples in the tar, if no image is rejected."""
        return sum(_tar_bytes(record) for record in self.records)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a build."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    options: dict[str, Any]
    """The options that decide the bytes, for the message about a difference."""
    shards: tuple[ShardPlan, ...]
    digest: str
    left_out: dict[str, int]
    """Number of source files that are no images, by kind, for example ".txt"."""
    notes: tuple[str, ...]
    """Sentences for the user: choices that were made, and files that are left out."""

    @property
    def num_images(self) -> int:
        """Images of the source, rejects included."""
        return sum(len(shard.records) for shard in self.shards)


def make_plan(
    seen: Iterable[Seen],
    classes: tuple[str, ...],
    *,
    dataset: str,
    split: str,
    shard_bytes: int,
    shuffle_seed: int | None,
    images: ImagePolicy = AS_THEY_ARE,
    deduplicate: bool = False,
    keep_metadata: bool = False,
    notes: Sequence[str] = (),
) -> Plan:
    """Spread the images evenly over the fewest shards of about `shard_bytes` or less.

    An image that cannot be taken (`Lost`) has a place in a shard too, where it becomes a reject.

    With a seed the images are sorted by a keyed hash of their keys. This shuffle depends neither on the order of the
    records nor on the random numbers of a library. Without a seed they are sorted by path.

    Raises:
        PlanError: there are no images, or two images have the same key.
    """
    left_out: Counter[str] = Counter()
    records = _records(seen, left_out)
    if keep_metadata:
        records = (record._replace(metadata=MetadataSource(record.path, record.metadata)) for record in records)
    else:
        records = (record._replace(metadata=None) if record.metadata else record for record in records)
    ordered = sorted(records, key=_path_order if shuffle_seed is None else _shuffled_order(shuffle_seed))
    if not ordered:
        others = f"; it has other files: {tally(left_out)}" if left_out else ""
        raise PlanError(f"the source has no images (.jpg, .jpeg, .png, .webp and so on){others}")
    _check_keys(ordered)
    notes = (*notes, *_notes(ordered, classes, images, left_out))
    ends = list(itertools.accumulate(_tar_bytes(record) for record in ordered))
    num_shards = -(-ends[-1] // shard_bytes)
    groups = itertools.groupby(zip(ordered, ends, strict=True), key=lambda item: (item[1] - 1) * num_shards // ends[-1])
    shards = tuple(
        ShardPlan(index, f"{split}-{index:06d}", tuple(record for record, _ in group))
        for index, (_, group) in enumerate(groups)
    )
    options = {"shard_bytes": shard_bytes, "shuffle_seed": shuffle_seed, "deduplicate": deduplicate}
    options |= {"keep_metadata": True} if keep_metadata else {}
    options |= images.model_dump() | ({"pillow": PIL.__version__} if images.changes_images else {})
    digest = _digest([dataset, split, classes, options], shards)
    return Plan(dataset, split, classes, options, shards, digest, dict(sorted(left_out.items())), notes)


def _records(seen: Iterable[Seen], left_out: Counter[str]) -> Iterator[Record]:
    """The images; everything else is counted in `left_out`."""
    for item in seen:
        if isinstance(item, Other):
            left_out[item.kind] += 1
        elif isinstance(item, Lost):
            yield Record.of(item.path, None, UnusableSource(item.reason))
        else:
            yield item


def _check_keys(records: Iterable[Record]) -> None:
    paths: dict[str, str] = {}
    for record in records:
        if (other := paths.get(record.key)) is not None:
            raise PlanError(
                f"{record.path} is twice in the source, so two images have the same key; keep one of them"
                if other == record.path
                else f"{other} and {record.path} have the same key, {record.key}; rename one of them"
            )
        paths[record.key] = record.path


def _notes(
    records: Sequence[Record], classes: tuple[str, ...], images: ImagePolicy, left_out: Mapping[str, int]
) -> Iterator[str]:
    """Sentences that the user should read before the shards are written."""
    lost = [(record.path, record.source.reason) for record in records if isinstance(record.source, UnusableSource)]
    usable = [record for record in records if not isinstance(record.source, UnusableSource)]
    used: set[int] = set()
    for record in usable:
        used.update((record.label,) if isinstance(record.label, int) else record.label or ())
    if empty := [name for label, name in enumerate(classes) if label not in used]:
        yield f"no image of {len(empty)} of the {len(classes)} classes, which keep their labels: {listed(empty)}"
    odd = Counter(suffix for record in usable if (suffix := suffix_of(record.path)) in CONVERTED_SUFFIXES)
    if odd and not images.to_jpeg:
        yield f"files that are rejected unless --to-jpeg converts them: {tally(odd)}"
    if lost:
        yield f"{len(lost)} images cannot be taken, the first is {lost[0][0]}: {lost[0][1]}"
    if left_out:
        yield f"{sum(left_out.values())} files left out, which are no images: {tally(left_out)}"


def _path_order(record: Record) -> bytes:
    return record.path.encode("utf-8", "surrogateescape")


def _shuffled_order(seed: int) -> Callable[[Record], bytes]:
    return lambda record: hashlib.sha256(f"{seed}/{record.key}".encode()).digest()


def _tar_bytes(record: Record) -> int:
    """Bytes of the sample in the tar: label, metadata and image, each with a header and whole blocks."""
    num_blocks = 1 - (-record.num_bytes // tarfile.BLOCKSIZE)
    if record.label is not None:
        num_blocks += 2
    if record.metadata:
        num_blocks += 1 - (-record.metadata.num_bytes // tarfile.BLOCKSIZE)
    return num_blocks * tarfile.BLOCKSIZE


def _digest(head: list[Any], shards: tuple[ShardPlan, ...]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, *head], sort_keys=True).encode())
    for shard in shards:
        rows = [(record.key, record.path, record.label, record.num_bytes) for record in shard.records]
        digest.update(json.dumps([shard.name, rows]).encode())
    return digest.hexdigest()
