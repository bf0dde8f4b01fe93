"""Peak memory of this process and its descendants together, sampled while a block runs."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_INTERVAL_S = 0.05


class PeakMemory:
    """Result of `peak_memory`: `num_bytes` is valid once the block has ended."""

    num_bytes = 0


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Sample the resident memory of the process tree. Pages that processes share count once (PSS)."""
    peak, done, process = PeakMemory(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not done.wait(_INTERVAL_S):
            peak.num_bytes = max(peak.num_bytes, _tree_bytes(process))

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and its descendants; a process that has just ended counts as 0."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            total += one.memory_full_info().pss
    return total
