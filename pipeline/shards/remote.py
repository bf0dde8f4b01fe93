"""Shards without a local copy, for disks that are too small: images are read from the store by range.

`data.stream.cache: off` selects this. Indexes are fetched whole, verified, and kept in memory. The bytes of images
cannot be verified, since the manifest has hashes of whole shards only. Each image costs one request; neighbours share a
request.
"""

import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline import telemetry
from pipeline.format.index import ROW_DTYPE, Index, ShardIndexError, index_from_bytes
from pipeline.format.manifest import Manifest
from pipeline.store import Store

_GAP_BYTES = 64 * 2**10  # a smaller gap between two images is read too, which is cheaper than a second request
_MAX_INDEXES = 1024

_log = logging.getLogger(__name__)


class RemoteShard:
    """A shard whose index is in memory, and whose images are read by range."""

    def __init__(self, store: Store, name: str, index: Index) -> None:
        self._store, self._name, self.rows = store, name, index.view(ROW_DTYPE)

    def images(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
        """See `OpenShard`; neighbours come in one request.

        Raises:
            StoreError: the store cannot be read.
        """
        starts = np.array(offsets, np.int64)
        stops = starts + np.array(sizes, np.int64)
        order = np.argsort(starts, kind="stable")
        gaps = starts[order][1:] - np.maximum.accumulate(stops[order])[:-1]
        images = [memoryview(b"")] * len(offsets)
        for run in np.split(order, np.flatnonzero(gaps > _GAP_BYTES) + 1):
            first = int(starts[run[0]])
            data = memoryview(self._store.read_range(self._name, first, int(stops[run].max()) - first))
            for i in run.tolist():
                images[i] = data[starts[i] - first : stops[i] - first]
        return images


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
            ShardIndexError: the index does not match the manifest, twice in succession.
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

    def pin(self, i: int) -> RemoteShard:
        """As `shard`: there is nothing to evict."""
        return self.shard(i)

    def release(self, i: int) -> None:
        """Nothing to do."""

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return sum(self._manifest.shards[i].num_bytes for i in shards)

    def _fetch_index(self, i: int) -> Index:
        entry = self._manifest.shards[i]
        source = f"{self._store.url}/{entry.index_name}"
        try:
            return index_from_bytes(self._store.read(entry.index_name), entry, source)
        except ShardIndexError as error:  # perhaps damaged on the way
            telemetry.STORE_ERRORS.labels(kind="damaged").inc()
            _log.warning("%s (trying once more now)", error)
            return index_from_bytes(self._store.read(entry.index_name), entry, source)
