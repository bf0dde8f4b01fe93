"""The samples of a finished data set, wherever it lies: whole shards, or single ones by their number."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.format.manifest import Manifest, ShardEntry
from pipeline.format.tar import TarSample
from pipeline.shards.remote import RemoteShards
from pipeline.shards.samples import SampleReader
from pipeline.store import Store


class StoredSample(NamedTuple):
    """A sample, and where it was found."""

    number: int
    """Its position in the data set, shard by shard: what the trainer calls its id."""
    entry: ShardEntry
    sample: TarSample
    height: int
    """In pixels as stored, before any EXIF rotation."""
    width: int


@contextlib.contextmanager
def local_tar(store: Store, entry: ShardEntry) -> Iterator[Path]:
    """The tar of a shard as a file: itself in a local store, else a copy in `TMPDIR` that goes with the block.

    Raises:
        StoreError: it cannot be read.
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
    """The samples at these positions of the data set; of a shard only its index and these samples are fetched.

    Raises:
        StoreError: the store does not deliver.
        ShardIndexError, TarError: index or tar are not what the manifest and the index say.
    """
    reader = SampleReader(RemoteShards(store, manifest), manifest.shards)
    for number in numbers:
        ids = np.array([number])
        (sample,), (row,) = reader.samples(ids), reader.locate(ids).table
        yield StoredSample(number, reader.entry_of(number), sample, int(row["height"]), int(row["width"]))


def label_names(sample: TarSample, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a sample; a number where there is no such class."""
    return ("(unlabelled)",) if sample.label is None else sample.class_names(classes)
