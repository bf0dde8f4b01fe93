"""The work in progress of this process, so that a stalled run can say which shard and which phase delay it.

A thread announces long work with `phase("download of shard train-000012")`. The thread that waits for a result asks
`describe()`. An entry is removed when its phase ends.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

_lock = threading.Lock()
_phases: dict[int, tuple[str, float]] = {}
_keys = itertools.count()


@contextlib.contextmanager
def phase(what: str) -> Iterator[None]:
    """Announce that this thread does `what`, until the block ends."""
    key = next(_keys)
    with _lock:
        _phases[key] = what, time.monotonic()
    try:
        yield
    finally:
        with _lock:
            del _phases[key]


def describe() -> str:
    """The work in progress, longest first: "download of shard a (12 s), read from s3://b (3 s)"."""
    with _lock:
        phases = sorted(_phases.values(), key=lambda entry: entry[1])
    now_s = time.monotonic()
    return ", ".join(f"{what} ({now_s - since_s:.0f} s)" for what, since_s in phases) or "nothing that is known of"
