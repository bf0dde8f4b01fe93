"""Threads for kernels that release the interpreter lock: parallel over images, never inside one image."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


class Threads:
    """`num_threads` threads in which torch's kernels use one core. The caller's torch setting does not change."""

    def __init__(self, num_threads: int) -> None:
        before = torch.get_num_threads()
        all_started = threading.Barrier(num_threads)

        def start() -> None:
            torch.set_num_threads(1)
            all_started.wait()

        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="views", initializer=start)
        all_busy = threading.Barrier(num_threads)
        for future in [self._pool.submit(all_busy.wait) for _ in range(num_threads)]:
            future.result()
        torch.set_num_threads(before)

    def for_each(self, work: Callable[[int], None], count: int) -> None:
        """Call `work` with 0 to `count` - 1, and wait for all calls. Raises the first exception of a call."""
        for _ in self._pool.map(work, range(count)):
            pass

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
