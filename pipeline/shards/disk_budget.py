"""The disk budget of the cache folder: shards of all data sets count, and are evicted when it is spent."""

import contextlib
import fcntl
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline import telemetry, waiting

_DATA_SET_FOLDER = re.compile(r"[0-9a-f]{16}")


class DiskBudget:
    """`max_bytes` for the shards of all data sets in `root`. `needs`: size of each data set in use, by its folder.

    It is a soft limit: pinned shards, and the shard just fetched, always stay. Shards of data sets that are not in use
    are evicted first, the oldest first. Then each data set in use has a share of the budget. Of one that exceeds it,
    the shard released last is evicted first: an epoch reads every shard once, so the shard just released is needed
    last.
    `is_full`: over budget, and every other shard is pinned.
    """

    def __init__(self, root: Path, max_bytes: int, needs: Mapping[str, int]) -> None:
        self.root, self.max_bytes, self.is_full = root, max_bytes, False
        self._shares = dict(zip(needs, split_evenly(max_bytes, list(needs.values())), strict=True))
        self._lock = threading.Lock()

    def evict(self) -> None:
        """Remove unpinned shards until all shards are within the budget."""
        with self._lock:
            folders = [folder for folder in self.root.iterdir() if _DATA_SET_FOLDER.fullmatch(folder.name)]
            sizes = {folder.name: {tar: _num_bytes(tar) for tar in folder.glob("*.tar")} for folder in folders}
            totals = {name: sum(tars.values()) for name, tars in sizes.items()}
            for tar in self._in_turn(list(itertools.chain.from_iterable(sizes.values()))):
                name = tar.parent.name
                if sum(totals.values()) <= self.max_bytes:
                    break
                if totals[name] > self._shares.get(name, 0) and _remove(tar):
                    totals[name] -= sizes[name][tar]
            self.is_full = sum(totals.values()) > self.max_bytes
        for name in self._shares.keys() & totals.keys():
            telemetry.CACHE_BYTES.labels(name).set(totals[name])

    def _in_turn(self, tars: list[Path]) -> list[Path]:
        """All shards, in the order in which they may be evicted."""
        foreign = [tar for tar in tars if tar.parent.name not in self._shares]
        own = [tar for tar in tars if tar.parent.name in self._shares]
        return sorted(foreign, key=_last_use) + sorted(own, key=_last_use, reverse=True)


def split_evenly(budget: int, needs: Sequence[int]) -> list[int]:
    """Divide a budget equally, but give no part more than it needs; the rest goes to the others.

    Equally, because every data set has the same number of shards in use, whatever its share of the samples.
    """
    parts = [0] * len(needs)
    ascending = sorted(range(len(needs)), key=lambda i: needs[i])
    for num_left, i in zip(range(len(needs), 0, -1), ascending, strict=True):
        parts[i] = min(needs[i], budget // num_left)
        budget -= parts[i]
    return parts


@contextlib.contextmanager
def process_lock(path: Path, shard: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` among processes. The kernel drops it with its process, so no lock is stale."""
    with path.open("w") as file:
        with waiting.phase(f"wait for the rank of this node that downloads shard {shard}"):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(tar: Path) -> bool:
    """Remove a shard. False: a process has pinned it, or is about to."""
    try:
        with contextlib.ExitStack() as stack:
            # A process that opens a shard holds the lock file until the shard is pinned.
            for path, mode in ((tar.with_suffix(".lock"), "ab"), (tar, "rb+")):
                fcntl.flock(stack.enter_context(path.open(mode)), fcntl.LOCK_EX | fcntl.LOCK_NB)
            tar.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:  # another rank evicted it just now
        pass
    return True


def _last_use(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another rank evicted it just now
        return path.stat().st_mtime
    return 0.0


def _num_bytes(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
