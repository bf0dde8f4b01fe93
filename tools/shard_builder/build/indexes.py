"""The indexes of a finished data set in any store, and the statistics that need only the indexes."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.console.progress import counted
from pipeline.format.checksum import checksum
from pipeline.format.index import Index, ends, load_index
from pipeline.format.manifest import Spread
from pipeline.format.shard_table import ShardEntry
from pipeline.store import Store

_NUM_THREADS = 16  # small objects: threads mostly wait


def read_index(store: Store, entry: ShardEntry) -> Index:
    """The index of one shard, checked against the manifest.

    Raises:
        StoreError: the index cannot be read.
        ShardIndexError: the index does not match the manifest.
    """
    if path := store.local_path(entry.index_name):
        return load_index(path, entry)
    with tempfile.NamedTemporaryFile(suffix=f"-{entry.index_name}") as scratch:
        store.download(entry.index_name, scratch.name)
        return load_index(scratch.name, entry)


def read_indexes(store: Store, entries: Sequence[ShardEntry]) -> Iterator[Index]:
    """The indexes of several shards, in order. Threads read ahead."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        indexes = pool.map(lambda entry: read_index(store, entry), entries)
        yield from counted(indexes, "reading indexes", len(entries), "shards")


def sample_checksums(index: Index, tar: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The checksums of the images of a tar, and those of the bytes before each image: the two columns of an index."""
    found = []
    begins = [0, *ends(index).tolist()]
    with tar.open("rb") as file:
        for row, begin, end in zip(index, begins, begins[1:], strict=False):
            file.seek(begin)
            content = memoryview(file.read(end - begin))
            start = int(row["offset"]) - begin
            found.append((checksum(content[start : start + int(row["size"])]), checksum(content[:start])))
    images, heads = np.array(found, np.uint64).reshape(-1, 2).T
    return images, heads


class ImageSpreads(TypedDict):
    """The three size statistics of a manifest."""

    image_height: Spread
    image_width: Spread
    image_bytes: Spread


def image_spreads(indexes: Sequence[Index]) -> ImageSpreads:
    """Exact minimum, median and maximum over all samples."""
    return ImageSpreads(
        image_height=_spread(indexes, "height"),
        image_width=_spread(indexes, "width"),
        image_bytes=_spread(indexes, "size"),
    )


def _spread(indexes: Sequence[Index], column: str) -> Spread:
    values = np.concatenate([index[column] for index in indexes])
    middle = (len(values) - 1) // 2
    median = np.partition(values, middle)[middle]
    return Spread(min=int(values.min()), median=int(median), max=int(values.max()))
