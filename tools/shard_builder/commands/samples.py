"""The samples of a finished data set, wherever it lies: whole shards, or single ones by their number."""

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.format.index import Index
from pipeline.format.manifest import Manifest, ShardEntry
from pipeline.format.sidecars import energon_index
from pipeline.format.tar import KEY_PATTERN, TarError, TarSample, iter_samples
from pipeline.store import Store
from tools.shard_builder.build.indexes import read_index

_END_MARK = bytes(2 * tarfile.BLOCKSIZE)


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
    first = 0
    for entry in manifest.shards:
        here = range(max(numbers.start, first), min(numbers.stop, first + entry.num_samples))
        if here:
            index = read_index(store, entry)
            for number in here:
                row = index[number - first]
                sample = _read_one(store, entry, index, number - first)
                yield StoredSample(number, entry, sample, int(row["height"]), int(row["width"]))
        first += entry.num_samples


def _read_one(store: Store, entry: ShardEntry, index: Index, row: int) -> TarSample:
    """What lies between the end of the sample before and the end of this one is, with an end mark, a tar too."""
    start, stop = np.frombuffer(energon_index(index), "<u8")[row : row + 2].tolist()
    with tempfile.NamedTemporaryFile(prefix="shard-builder-") as scratch:
        scratch.write(store.read_range(entry.tar_name, start, stop - start) + _END_MARK)
        scratch.flush()
        with contextlib.suppress(TarError):
            samples = list(iter_samples(scratch.name))
            if len(samples) == 1 and KEY_PATTERN.fullmatch(samples[0].key) and samples[0].ext.isalnum():
                return samples[0]
    raise TarError(f"shard {entry.tar_name}: sample {row} is not where its index says; run 'shard-builder verify'")


def label_names(sample: TarSample, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a sample; a number where there is no such class."""
    if sample.label is None:
        return ("(unlabelled)",)
    return tuple(classes[label] if 0 <= label < len(classes) else str(label) for label in sample.labels)
