"""One or several data sets with common numbers for shards and samples.

Shard numbers and sample ids continue from one data set to the next. Each data set has its own store, and its own folder
in the cache.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.format.manifest import MANIFEST_NAME, DamagedManifestError, Manifest
from pipeline.format.shard_table import TABLE_NAME, ShardEntry
from pipeline.shards.cache import CacheConfig, ShardCache, cache_folder
from pipeline.shards.disk_budget import DiskBudget
from pipeline.shards.interface import OpenShard, ShardSource
from pipeline.shards.remote import RemoteShards
from pipeline.shards.verified import verified
from pipeline.store import MissingObjectError, Store

_MAX_OPEN_SHARDS = 256  # per process, beside the pinned shards; each is an open file


@dataclass(frozen=True)
class DataSet:
    """A manifest, and the store that holds its shards."""

    store: Store
    manifest: Manifest

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """Samples of each shard [N]."""
        return self.manifest.shards.num_samples


def open_data_set(url: str) -> DataSet:
    """The data set at `url`.

    Raises:
        ManifestError, StoreError: there is no readable manifest.
    """
    store = Store(url)
    return DataSet(store, read_manifest(store))


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set in `store`. A manifest that does not have its checksum is read again.

    Raises:
        StoreError: the manifest is missing or cannot be read.
        ManifestError: its content is wrong.
    """

    def read_table() -> bytearray:  # not `Store.read`, which needs the memory twice
        content = bytearray()
        for part in store.parts(TABLE_NAME):
            content += part
        return content

    def read() -> Manifest:
        try:
            head = store.read(MANIFEST_NAME)
        except MissingObjectError as error:
            raise MissingObjectError(
                f"{store.url} holds no {MANIFEST_NAME}: it is not a data set, or its build has not finished; "
                f"run 'shard-builder build' (again) with this destination ({error})"
            ) from None
        return Manifest.from_bytes(head, read_table, f"{store.url}/{MANIFEST_NAME}")

    return verified(read, f"{store.url}/{MANIFEST_NAME}", DamagedManifestError)


class JoinedDataSets:
    """Several data sets as one. Remote ones share the folder of `cache` and its `max_bytes`.

    Without `cache`, remote shards are read by range. A local folder is always read in place.
    """

    def __init__(self, parts: Sequence[DataSet], cache: CacheConfig | None) -> None:
        self.parts = parts
        root, max_bytes = (Path(cache.folder).expanduser(), int(cache.max_bytes)) if cache else (Path(), sys.maxsize)
        budget = DiskBudget(root, max_bytes, {cache_folder(part.manifest): part.manifest.num_bytes for part in parts})
        max_open = max(1, _MAX_OPEN_SHARDS // len(parts))
        self._sources: list[ShardSource] = [
            RemoteShards(part.store, part.manifest)
            if cache is None and part.store.local_path("") is None
            else ShardCache(part.store, part.manifest, budget, max_open)
            for part in parts
        ]
        self.max_bytes = max(source.max_bytes for source in self._sources)
        self._first_shards = np.cumsum([0, *(len(part.manifest.shards) for part in parts)])
        self._bytes = np.concatenate([part.manifest.shards.num_bytes for part in parts])
        self.shard_starts = np.cumsum(np.concatenate([[0], *(part.shard_sizes for part in parts)]))
        self._part_starts = np.cumsum([0, *(part.manifest.num_samples for part in parts)])
        self.num_samples = int(self._part_starts[-1])

    @property
    def num_shards(self) -> int:
        """Shards of all data sets."""
        return len(self._bytes)

    @property
    def is_stored(self) -> bool:
        """Whether all data sets are stored, see `ShardCache`."""
        return all(source.is_stored for source in self._sources)

    @property
    def is_full(self) -> bool:
        """Whether the cache is full, see `DiskBudget`."""
        return any(source.is_full for source in self._sources)

    def shard(self, i: int) -> OpenShard:
        """As `ShardCache.shard`; `i` counts through all data sets."""
        source, number = self._place(i)
        return source.shard(number)

    def renewed(self, i: int, shard: OpenShard) -> OpenShard:
        """As `ShardCache.renewed`."""
        source, number = self._place(i)
        return source.renewed(number, shard)

    def pin(self, i: int) -> OpenShard:
        """As `ShardCache.pin`."""
        source, number = self._place(i)
        return source.pin(number)

    def release(self, i: int) -> None:
        """As `ShardCache.release`."""
        source, number = self._place(i)
        source.release(number)

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return int(self._bytes[np.fromiter(shards, np.int64)].sum())

    def url(self, i: int) -> str:
        """As `ShardCache.url`."""
        source, number = self._place(i)
        return source.url(number)

    def entry(self, i: int) -> ShardEntry:
        """The manifest's entry of shard `i`."""
        part, number = self._numbers(i)
        return self.parts[part].manifest.shards[number]

    def _numbers(self, i: int) -> tuple[int, int]:
        """The data set of a shard, and its number there."""
        part = int(np.searchsorted(self._first_shards, i, side="right")) - 1
        return part, i - int(self._first_shards[part])

    def _place(self, i: int) -> tuple[ShardSource, int]:
        part, number = self._numbers(i)
        return self._sources[part], number

    def shard_of(self, ids: Any) -> Any:
        """Number of the shard of each sample."""
        return np.searchsorted(self.shard_starts, ids, side="right") - 1

    def part_of(self, ids: Any) -> Any:
        """Number of the data set of each sample."""
        return np.searchsorted(self._part_starts, ids, side="right") - 1

    def next_of(self, sample_id: int) -> int:
        """The next sample in the same data set; the first sample after the last."""
        start, stop = self._part_starts[self.part_of(sample_id) :][:2].tolist()
        return start if sample_id + 1 == stop else sample_id + 1

    def url_of(self, sample_id: int) -> str:
        """The URL of the tar of a sample."""
        return self.url(int(self.shard_of(sample_id)))

    def name_of(self, sample_id: int) -> str:
        """The name of a sample for messages."""
        shard = int(self.shard_of(sample_id))
        return f"image {sample_id - self.shard_starts[shard]} of shard {self.entry(shard).name}"
