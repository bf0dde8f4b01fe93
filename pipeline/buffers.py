"""A pool of large arrays that reuses their memory, since fresh pages are expensive.

A batch of 64 images is 134 MB of float32 views. For arrays of this size the allocator asks the system for new pages
each time, and the system clears every page at first touch. Reused pages cost nothing.
"""

import sys
import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

# An encoded image: its bytes, or a window of a buffer that holds a batch.
Encoded = bytes | memoryview


class BufferPool:
    """Returns uninitialised arrays, and reuses an array once nothing refers to it.

    The pool counts the references to the array that owns the memory. Every view refers to that array, also a torch
    tensor or a memoryview, so a view keeps the memory in use.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.generic]] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        """An array of `shape`, contents undefined. The second dimension is the batch size."""
        with self._lock:
            unused = [i for i in range(len(self._arrays)) if _references(self._arrays, i) == _UNUSED]
            for i in unused:
                if self._arrays[i].shape == shape and self._arrays[i].dtype == dtype:
                    return self._arrays[i]
            # Nothing fits. Unused arrays of another batch size are freed: that size may not come again.
            idle = {i for i in unused if self._arrays[i].shape[1] != shape[1]}
            self._arrays = [array for i, array in enumerate(self._arrays) if i not in idle]
            self._arrays.append(np.empty(shape, dtype))
            return self._arrays[-1]


def _references(arrays: list[NDArray[np.generic]], place: int) -> int:
    return sys.getrefcount(arrays[place])


_UNUSED = _references([np.empty(0)], 0)
