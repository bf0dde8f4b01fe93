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
    """An open, verified shard: its `index` (see `pipeline.format.index`), and its tar mapped into memory.

    `rows` is the same index as `ROW_DTYPE`.
    """

    def __init__(self, path: Path, index: NDArray[np.void]) -> None:
        self.path, self.index = path, index.view(np.ndarray)  # a plain array is indexed much faster than a memmap
        self.rows = self.index.view(ROW_DTYPE)
        self._file = os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        self._bytes = memoryview(self._map)

    def images(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
        """See `OpenShard`. The bytes are windows of the mapped file, and stay valid after eviction.

        Raises:
            CacheError: the file was truncated; touching its missing pages would kill the process.
        """
        if os.fstat(self._file).st_size < len(self._bytes):
            raise CacheError(
                f"{self.path} was truncated while it was in use; find the program that writes there, and start again"
            )
        images = []
        for offset, size in zip(offsets, sizes, strict=True):
            start = offset & -mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, offset + size - start)  # reads ahead without waiting
            images.append(self._bytes[offset : offset + size])
        return images

    @property
    def is_evicted(self) -> bool:
        """Whether the file is deleted. It can still be read, but its disk space is not freed."""
        return os.fstat(self._file).st_nlink == 0

    def pin(self) -> bool:
        """Keep all processes from evicting the shard until `unpin`. False: it is evicted already."""
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return not self.is_evicted

    def unpin(self) -> None:
        """Allow eviction, and record the time of release."""
        os.utime(self._file)
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        # Closed only when the last reader is gone, so that eviction never breaks a read.
        if hasattr(self, "_file"):
            os.close(self._file)
