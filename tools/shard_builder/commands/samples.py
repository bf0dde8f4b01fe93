"""The samples of a finished data set in any store: whole shards, or single samples by number."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.format.manifest import Manifest
from pipeline.format.shard_table import ShardEntry
from pipeline.format.tar import TarSample
from pipeline.shards.remote import RemoteShards
from pipeline.shards.samples import SampleReader
from pipeline.store import Store


class StoredSample(NamedTuple):
    """A sample and its place in the data set."""

    number: int
    """Its position in the data set, counted through the shards; the trainer calls it the id."""
    shard: str
    """The name of its shard."""
    sample: TarSample
    height: int
    """In pixels as stored, before any EXIF rotation."""
    width: int


@contextlib.contextmanager
def local_tar(store: Store, entry: ShardEntry) -> Iterator[Path]:
    """The tar of a shard as a local file. From a remote store it is a copy in `TMPDIR`, deleted after the block.

    Raises:
        StoreError: the tar cannot be read.
    """
    path = store.local_path(entry.tar_name)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shard-builder-") as scratch:
        copy = Path(scratch) / entry.tar_name
        store.download(entry.tar_name, copy)
        yield copy


def read_numbered(store: Store, manifest: Manifest, numbers: range) -> Iterator[StoredSample]:
    """The samples at these positions of the data set. Fetches only the indexes and these samples, not whole shards.

    Raises:
        StoreError: the store cannot be read.
        ShardIndexError: an index does not match the manifest.
        DamagedShardError: bytes of a tar do not have the checksum of its index.
    """
    reader = SampleReader(RemoteShards(store, manifest), manifest.shards.num_samples)
    for number in numbers:
        ids = np.array([number])
        (sample,), (row,) = reader.samples(ids), reader.locate(ids).table
        shard = manifest.shards[reader.shard_of(number)].name
        yield StoredSample(number, shard, sample, int(row["height"]), int(row["width"]))


def label_names(sample: TarSample, classes: Sequence[str]) -> tuple[str, ...]:
    """The class names of a sample; the number of a label that has no class."""
    return ("(unlabelled)",) if sample.label is None else sample.class_names(classes)
