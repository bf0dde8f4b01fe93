"""Read samples by id: rows of the index, images, keys, or whole samples.

The id of a sample is its place in the data sets, shard by shard.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.buffers import Encoded
from pipeline.format.index import INDEX_DTYPE, ROW_DTYPE, Index, ends
from pipeline.format.manifest import ShardEntry
from pipeline.format.members import HEADER_BYTES, TarError
from pipeline.format.tar import TarSample, parse_key, parse_sample
from pipeline.prefetch import prefetch
from pipeline.shards.interface import OpenShard, ShardSource

_NUM_REQUESTS = 16  # at once, without a cache


class Located(NamedTuple):
    """The location of N samples."""

    table: Index
    """The row of the index of each sample [N]."""
    places: NDArray[np.int64]
    """The number of each sample in its shard [N]."""
    runs: list[tuple[OpenShard, list[int]]]
    """Each shard, and the places in [N] of its samples."""


class SampleReader:
    """Reads samples from `shards`, which `entries` describe. Thread-safe.

    Every method raises `CacheError`, `ShardIndexError` or `StoreError` if a shard cannot be opened or read.
    """

    def __init__(self, shards: ShardSource, entries: Sequence[ShardEntry]) -> None:
        self._shards, self._entries = shards, entries
        self._starts = np.cumsum([0, *(entry.num_samples for entry in entries)])

    def locate(self, ids: NDArray[np.int64]) -> Located:
        """Rows and shards of the samples `ids` [N]; opens the shards."""
        numbers = np.searchsorted(self._starts, ids, side="right") - 1
        places = ids - self._starts[numbers]
        table = np.empty(len(ids), dtype=INDEX_DTYPE)
        rows = table.view(ROW_DTYPE)
        by_shard = np.argsort(numbers, kind="stable")
        stops = [*(np.flatnonzero(np.diff(numbers[by_shard])) + 1).tolist(), len(ids)]
        runs = [by_shard[start:stop] for start, stop in itertools.pairwise([0, *stops])]
        opened = [self._shards.shard(int(numbers[run[0]])) for run in runs]
        for shard, run in zip(opened, runs, strict=True):
            rows[run] = shard.rows[places[run]]
        return Located(table, places, [(shard, run.tolist()) for shard, run in zip(opened, runs, strict=True)])

    def images(self, located: Located) -> list[Encoded]:
        """The encoded images."""
        return self._ranges(located, located.table["offset"].tolist(), located.table["size"].tolist())

    def keys(self, ids: NDArray[np.int64]) -> list[str]:
        """The keys. Only the tars have them, so the header of each image is read. Evicted shards are fetched again."""
        located = self.locate(ids)
        offsets = (located.table["offset"].astype(np.int64) - HEADER_BYTES).tolist()
        return [parse_key(header) for header in self._ranges(located, offsets, [HEADER_BYTES] * len(ids))]

    def samples(self, ids: NDArray[np.int64]) -> list[TarSample]:
        """Each whole sample from its tar: key, label, metadata, image.

        Raises:
            TarError: a sample is not where the index says.
        """
        located = self.locate(ids)
        begins = np.zeros(len(ids), np.int64)
        for shard, run in located.runs:
            later = [b for b in run if located.places[b]]  # the first sample of a shard begins at byte 0
            begins[later] = ends(shard.rows.view(INDEX_DTYPE)[located.places[later] - 1])
        sizes = ends(located.table) - begins
        contents = self._ranges(located, begins.tolist(), sizes.tolist())
        rows = zip(ids.tolist(), begins.tolist(), located.table, contents, strict=True)
        return [self._parse(number, begin, row, content) for number, begin, row, content in rows]

    def entry_of(self, number: int) -> ShardEntry:
        """The shard of a sample."""
        return self._entries[int(np.searchsorted(self._starts, number, side="right")) - 1]

    def _parse(self, number: int, begin: int, row: Any, content: Encoded) -> TarSample:
        name = self.entry_of(number).tar_name
        try:
            sample = parse_sample(content, begin, name)
        except TarError as error:
            raise TarError(f"{error}; run 'shard-builder verify'") from None
        if (sample.offset, len(sample.image)) != (row["offset"], row["size"]):
            raise TarError(f"shard {name}: sample {number} is not where its index says; run 'shard-builder verify'")
        return sample

    def _ranges(self, located: Located, offsets: Sequence[int], sizes: Sequence[int]) -> list[Encoded]:
        """The bytes at these offsets in the tars of the samples."""
        contents: list[Encoded] = [b""] * len(offsets)

        def fill(run: tuple[OpenShard, list[int]]) -> None:
            shard, places = run
            found = shard.images([offsets[b] for b in places], [sizes[b] for b in places])
            for b, content in zip(places, found, strict=True):
                contents[b] = content

        if self._shards.is_stored or len(located.runs) == 1:
            for run in located.runs:
                fill(run)
        else:  # each run is at least one request
            for _ in prefetch(fill, located.runs, _NUM_REQUESTS, len(located.runs), "read-ranges"):
                pass
        return contents
