"""A shard on the local disk, mapped into memory."""

import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.format.index import ROW_DTYPE
from pipeline.shards.interface import CacheError


class MappedShard:
    """An open, verified shard: `index` (see `pipeline.format.index`) and the bytes of its images, which are mapped.

    `rows` is the index again as `ROW_DTYPE`.
    """

    def __init__(self, path: Path, index: NDArray[np.void]) -> None:
        self.path, self.index = path, index.view(np.ndarray)  # a plain view of the map is indexed much faster
        self.rows = self.index.view(ROW_DTYPE)
        self._file = os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        self._bytes = memoryview(self._map)

    def images(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
        """See `OpenShard`: windows of the mapped file, valid after its eviction too.

        Raises:
            CacheError: the file is shorter than it was, and to touch its end would be the end of the process.
        """
        if os.fstat(self._file).st_size < len(self._bytes):
            raise CacheError(f"{self.path} was cut short while it was read; see who writes there, and start again")
        images = []
        for offset, size in zip(offsets, sizes, strict=True):
            start = offset & -mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, offset + size - start)  # reads ahead without waiting
            images.append(self._bytes[offset : offset + size])
        return images

    @property
    def is_evicted(self) -> bool:
        """Whether its file is gone: it still reads, but holds on to the disk space."""
        return os.fstat(self._file).st_nlink == 0

    def pin(self) -> bool:
        """Keep every process from evicting it until `unpin`. False: it is evicted already."""
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return not self.is_evicted

    def unpin(self) -> None:
        """Allow to evict it; it counts as used now."""
        os.utime(self._file)
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        # Closed with its last reader, so that eviction from the table never cuts a read short.
        if hasattr(self, "_file"):
            os.close(self._file)
