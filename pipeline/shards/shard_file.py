"""A shard on the local disk."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.format.index import ROW_DTYPE, Index
from pipeline.shards.interface import CacheError


class ShardFile:
    """An open shard: its `index` (see `pipeline.format.index`) in memory, and its tar, of which images are read.

    `rows` is the same index as `ROW_DTYPE`. The tar is read, not mapped into memory: a file that is cut while it is
    mapped kills the process. It stays readable after eviction.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self.path, self.index, self.rows = path, index, index.view(ROW_DTYPE)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def will_need(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """The system starts to read these bytes from the disk."""
        for offset, size in zip(offsets, sizes, strict=True):
            os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_WILLNEED)

    def read_into(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """See `OpenShard`.

        Raises:
            CacheError: the disk cannot be read.
        """
        try:
            for offset, buffer in zip(offsets, buffers, strict=True):
                num_read = os.preadv(self._file, [buffer], offset)
                if num_read < len(buffer):  # the file was cut
                    buffer[num_read:] = bytes(len(buffer) - num_read)
        except OSError as error:
            raise CacheError(f"cannot read {self.path}: {error.strerror}") from None

    @property
    def is_at_its_path(self) -> bool:
        """Whether the path still leads to this file, not to a newer one."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

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
