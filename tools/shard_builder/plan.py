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

from pipeline.errors import UserError
from tools.shard_builder.readers import Record

FORMAT_VERSION = 1  # goes up when the same records and options would give other bytes


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
    shards: tuple[ShardPlan, ...]
    digest: str


def make_plan(
    records: Iterable[Record],
    classes: tuple[str, ...],
    *,
    dataset: str,
    split: str,
    shard_bytes: int,
    shuffle_seed: int | None,
) -> Plan:
    """Spread `records` evenly over the fewest shards that are no larger than about `shard_bytes`.

    With a seed the images are sorted by a keyed hash of their keys: a shuffle that depends neither on the order
    of the records nor on any library's random numbers. With None they keep the order of their paths.

    Raises:
        PlanError: there are no images, or two have the same key.
    """
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
    return Plan(dataset, split, classes, shards, _digest(dataset, split, classes, shards))


def _path_order(record: Record) -> bytes:
    return record.path.encode("utf-8", "surrogateescape")


def _shuffled_order(seed: int) -> Callable[[Record], bytes]:
    return lambda record: hashlib.sha256(f"{seed}/{record.key}".encode()).digest()


def _tar_bytes(record: Record) -> int:
    """What the sample takes in the tar: two headers, the label and the image, each in whole blocks."""
    return (3 + -(-record.num_bytes // tarfile.BLOCKSIZE)) * tarfile.BLOCKSIZE


def _digest(dataset: str, split: str, classes: tuple[str, ...], shards: tuple[ShardPlan, ...]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, dataset, split, classes]).encode())
    for shard in shards:
        digest.update(json.dumps([shard.name, shard.records]).encode())
    return digest.hexdigest()
