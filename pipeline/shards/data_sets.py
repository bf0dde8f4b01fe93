"""One or several data sets with common numbers for shards and samples.

Shard numbers and sample ids continue from one data set to the next. Each data set has its own store, and its own folder
in the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.format.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.cache import CacheConfig, ShardCache
from pipeline.shards.interface import OpenShard, ShardSource
from pipeline.shards.remote import RemoteShards
from pipeline.store import MissingObjectError, Store


@dataclass(frozen=True)
class DataSet:
    """A manifest, and the store that holds its shards."""

    store: Store
    manifest: Manifest

    @property
    def shard_sizes(self) -> list[int]:
        """Samples of each shard."""
        return [entry.num_samples for entry in self.manifest.shards]


def open_data_set(url: str) -> DataSet:
    """The data set at `url`.

    Raises:
        ManifestError, StoreError: there is no readable manifest.
    """
    store = Store(url)
    return DataSet(store, read_manifest(store))


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set in `store`.

    Raises:
        StoreError: the manifest is missing or cannot be read.
        ManifestError: its content is wrong.
    """
    try:
        content = store.read(MANIFEST_NAME)
    except MissingObjectError as error:
        raise MissingObjectError(
            f"{store.url} holds no {MANIFEST_NAME}: it is not a data set, or its build has not finished; "
            f"run 'shard-builder build' (again) with this destination ({error})"
        ) from None
    return Manifest.from_bytes(content, f"{store.url}/{MANIFEST_NAME}")


def open_shards(store: Store, manifest: Manifest, cache: CacheConfig | None) -> ShardSource:
    """The shards of `manifest`: cached, or read by range without a cache. A local folder is always read in place."""
    if cache is None and store.local_path("") is None:
        return RemoteShards(store, manifest)
    return ShardCache(store, manifest, cache or CacheConfig())


class JoinedDataSets:
    """Several data sets as one. Each has its own cache; the `max_bytes` of `cache` is divided among the caches."""

    def __init__(self, parts: Sequence[DataSet], cache: CacheConfig | None) -> None:
        self.parts = parts
        shares = _shares(cache, [part.manifest.num_bytes for part in parts])
        self._caches = [
            open_shards(part.store, part.manifest, share) for part, share in zip(parts, shares, strict=True)
        ]
        self.max_bytes = sum(cache.max_bytes for cache in self._caches)
        # For each shard: its data set, and its number there.
        self._places = [(k, number) for k, part in enumerate(parts) for number in range(len(part.manifest.shards))]
        self.entries = [entry for part in parts for entry in part.manifest.shards]
        self.shard_starts = np.cumsum([0, *(size for part in parts for size in part.shard_sizes)])
        self._part_starts = np.cumsum([0, *(part.manifest.num_samples for part in parts)])
        self.num_samples = int(self._part_starts[-1])

    @property
    def num_shards(self) -> int:
        """Shards of all data sets."""
        return len(self._places)

    @property
    def is_stored(self) -> bool:
        """Whether all caches are stored, see `ShardCache`."""
        return all(cache.is_stored for cache in self._caches)

    @property
    def is_full(self) -> bool:
        """Whether any cache is full, see `ShardCache`."""
        return any(cache.is_full for cache in self._caches)

    def shard(self, i: int) -> OpenShard:
        """As `ShardCache.shard`; `i` counts through all data sets."""
        part, number = self._places[i]
        return self._caches[part].shard(number)

    def pin(self, i: int) -> OpenShard:
        """As `ShardCache.pin`."""
        part, number = self._places[i]
        return self._caches[part].pin(number)

    def release(self, i: int) -> None:
        """As `ShardCache.release`."""
        part, number = self._places[i]
        self._caches[part].release(number)

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return sum(self.entries[i].num_bytes for i in shards)

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
        part, number = self._places[int(self.shard_of(sample_id))]
        return f"{self.parts[part].store.url}/{self.parts[part].manifest.shards[number].tar_name}"

    def name_of(self, sample_id: int) -> str:
        """The name of a sample for messages."""
        shard = int(self.shard_of(sample_id))
        part, number = self._places[shard]
        return f"image {sample_id - self.shard_starts[shard]} of shard {self.parts[part].manifest.shards[number].name}"


def _shares(cache: CacheConfig | None, needs: Sequence[int]) -> list[CacheConfig | None]:
    """The cache config of each data set; at least one byte each."""
    if cache is None:
        return [None] * len(needs)
    return [cache.replace(max_bytes=max(share, 1)) for share in split_evenly(cache.max_bytes, needs)]


def split_evenly(budget: int, needs: Sequence[int]) -> list[int]:
    """Divide a budget equally, but give no part more than it needs; the rest goes to the others.

    Equally, because every data set has the same number of shards in use, whatever its share of the samples.
    """
    parts = [0] * len(needs)
    ascending = sorted(range(len(needs)), key=lambda i: needs[i])
    for num_left, i in zip(range(len(needs), 0, -1), ascending, strict=True):
        parts[i] = min(needs[i], budget // num_left)
        budget -= parts[i]
    return parts
