"""Peak memory of this process and all its children together, sampled while something runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL_S = 0.05


class PeakMemory:
    """Result of `peak_memory`: `num_bytes` once the block has ended."""

    num_bytes = 0


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Sample the resident memory of the process tree; pages that processes share are counted once (Linux PSS)."""
    peak, done = PeakMemory(), threading.Event()

    def sample() -> None:
        while not done.wait(_INTERVAL_S):
            peak.num_bytes = max(peak.num_bytes, _tree_bytes("self"))

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _tree_bytes(pid: str) -> int:
    """Proportional set size of a process and its descendants; of one that has just ended, nothing."""
    process = Path("/proc") / pid
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        children = [child for task in process.glob("task/*/children") for child in task.read_text().split()]
    except (OSError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return own + sum(_tree_bytes(child) for child in children)
