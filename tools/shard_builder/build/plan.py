"""The plan of a build: which image goes into which shard, decided before any image is read.

A pure function of the records and the options: no clock, host or absolute path. Its digest is the identity of
the build: two builders with the same digest write the same bytes, so a killed build can be resumed.
"""

import hashlib
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import PIL

from pipeline.errors import UserError
from tools.shard_builder.build.images import AS_THEY_ARE, ImagePolicy
from tools.shard_builder.readers import MetadataSource, Record

FORMAT_VERSION = 2  # goes up when the same records and options would give other bytes


class PlanError(UserError):
    """No plan can be made from these records."""


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard, in this order."""

    index: int
    name: str
    records: tuple[Record, ...]

    @property
    def num_bytes(self) -> int:
        """Of the samples in the tar, unless images are rejected."""
        return sum(_tar_bytes(record) for record in self.records)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a build."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    options: dict[str, Any]
    """Those that decide the bytes, for people to compare."""
    shards: tuple[ShardPlan, ...]
    digest: str

    @property
    def num_images(self) -> int:
        """Of the source, rejects included."""
        return sum(len(shard.records) for shard in self.shards)


def make_plan(
    records: Iterable[Record],
    classes: tuple[str, ...],
    *,
    dataset: str,
    split: str,
    shard_bytes: int,
    shuffle_seed: int | None,
    images: ImagePolicy = AS_THEY_ARE,
    deduplicate: bool = False,
    keep_metadata: bool = False,
) -> Plan:
    """Spread `records` evenly over the fewest shards that are no larger than about `shard_bytes`.

    With a seed the images are sorted by a keyed hash of their keys: a shuffle that depends neither on the order
    of the records nor on any library's random numbers. With None they keep the order of their paths.

    Raises:
        PlanError: there are no images, or two have the same key.
    """
    if keep_metadata:
        records = (record._replace(metadata=MetadataSource(record.path, record.metadata)) for record in records)
    else:
        records = (record._replace(metadata=None) if record.metadata else record for record in records)
    ordered = sorted(records, key=_path_order if shuffle_seed is None else _shuffled_order(shuffle_seed))
    if not ordered:
        raise PlanError("the source holds no images (.jpg, .jpeg, .png or .webp) in its class folders")
    if len({record.key for record in ordered}) < len(ordered):
        raise PlanError("two images of the source have the same key; rename one of them")
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
    return Plan(dataset, split, classes, options, shards, _digest([dataset, split, classes, options], shards))


def _path_order(record: Record) -> bytes:
    return record.path.encode("utf-8", "surrogateescape")


def _shuffled_order(seed: int) -> Callable[[Record], bytes]:
    return lambda record: hashlib.sha256(f"{seed}/{record.key}".encode()).digest()


def _tar_bytes(record: Record) -> int:
    """What the sample takes in the tar: label, metadata and image, each a header and whole blocks."""
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
