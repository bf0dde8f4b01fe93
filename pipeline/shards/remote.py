"""Shards without a local copy, for disks that are too small: images are read from the store by range.

`data.stream.cache: off` selects this. Indexes are fetched whole, verified, and kept in memory. Each image costs one
request; neighbours share a request.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.format.index import ROW_DTYPE, Index, ShardIndexError, index_from_bytes
from pipeline.format.manifest import Manifest
from pipeline.shards.interface import OpenShard
from pipeline.shards.verified import read_verified
from pipeline.store import Store

_GAP_BYTES = 64 * 2**10  # a smaller gap between two images is read too, which is cheaper than a second request
_MAX_INDEXES = 1024


class RemoteShard:
    """A shard whose index is in memory, and whose images are read by range."""

    def __init__(self, store: Store, name: str, index: Index) -> None:
        self._store, self._name, self.rows = store, name, index.view(ROW_DTYPE)

    def will_need(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """Nothing to do: a request is answered to the one who waits for it."""

    def read_into(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """See `OpenShard`; neighbours come in one request.

        Raises:
            StoreError: the store cannot be read.
        """
        starts = np.array(offsets, np.int64)
        stops = starts + np.array([len(buffer) for buffer in buffers], np.int64)
        order = np.argsort(starts, kind="stable")
        gaps = starts[order][1:] - np.maximum.accumulate(stops[order])[:-1]
        for run in np.split(order, np.flatnonzero(gaps > _GAP_BYTES) + 1):
            first = int(starts[run[0]])
            data = memoryview(self._store.read_range(self._name, first, int(stops[run].max()) - first))
            for i in run.tolist():
                buffers[i][:] = data[starts[i] - first : stops[i] - first]


class RemoteShards:
    """The shards of one manifest, with only their indexes in memory. Thread-safe."""

    is_stored, max_bytes, is_full = False, sys.maxsize, False

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest, self.num_shards = store, manifest, len(manifest.shards)
        self._open: OrderedDict[int, RemoteShard] = OrderedDict()
        self._lock = threading.Lock()

    def shard(self, i: int) -> RemoteShard:
        """Shard `i`, with its index fetched and verified.

        Raises:
            ShardIndexError: the index does not match the manifest, also when it is read again.
            StoreError: the store cannot be read.
        """
        with self._lock:
            if i in self._open:
                self._open.move_to_end(i)
                return self._open[i]
        shard = RemoteShard(self._store, self._manifest.shards[i].tar_name, self._fetch_index(i))
        with self._lock:
            self._open[i] = shard
            if len(self._open) > _MAX_INDEXES:
                self._open.popitem(last=False)
        return shard

    def renewed(self, i: int, shard: OpenShard) -> RemoteShard:
        """The same shard: what is read again comes from the store again."""
        del shard
        return self.shard(i)

    def pin(self, i: int) -> RemoteShard:
        """As `shard`: there is nothing to evict."""
        return self.shard(i)

    def release(self, i: int) -> None:
        """Nothing to do."""

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return int(self._manifest.shards.num_bytes[np.fromiter(shards, np.int64)].sum())

    def url(self, i: int) -> str:
        """The address of a tar, for messages."""
        return f"{self._store.url}/{self._manifest.shards[i].tar_name}"

    def _fetch_index(self, i: int) -> Index:
        entry = self._manifest.shards[i]
        source = f"{self._store.url}/{entry.index_name}"
        return read_verified(
            self._store, entry.index_name, lambda content: index_from_bytes(content, entry, source), ShardIndexError
        )
