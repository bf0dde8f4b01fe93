"""Large buffers whose memory is used again: fresh pages cost more than some of the work that fills them.

A batch of 64 images is 134 MB of float32 views. The allocator takes such sizes from the system and gives them back
each time, and the system clears every page at first touch; written again, the same pages cost nothing.
"""

import sys
import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

# An encoded image: bytes of its own, or a window of a mapped shard.
Encoded = bytes | memoryview


class BufferPool:
    """Hands out uninitialised arrays; the memory of one that nobody refers to any more is handed out again.

    Every view of such an array keeps its memory taken, however it was made, a torch tensor or a memoryview included:
    they all refer to the array that owns the memory, and those references are what is counted.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.generic]] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        """An array of `shape`, contents undefined. The second dimension is what changes with the size of a batch."""
        with self._lock:
            unused = [i for i in range(len(self._arrays)) if _references(self._arrays, i) == _UNUSED]
            for i in unused:
                if self._arrays[i].shape == shape and self._arrays[i].dtype == dtype:
                    return self._arrays[i]
            # Nothing fits. What lies idle in other shapes is of an earlier batch size and may not come again.
            idle = {i for i in unused if self._arrays[i].shape[1] != shape[1]}
            self._arrays = [array for i, array in enumerate(self._arrays) if i not in idle]
            self._arrays.append(np.empty(shape, dtype))
            return self._arrays[-1]


def _references(arrays: list[NDArray[np.generic]], place: int) -> int:
    return sys.getrefcount(arrays[place])


_UNUSED = _references([np.empty(0)], 0)
