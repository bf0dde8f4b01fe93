"""Shards on local disk: downloaded once per node, verified before use, evicted when the disk budget is spent.

The ranks of a node share one directory. There is one lock file per shard, so that one rank downloads while the others
wait. A shard becomes visible by an atomic rename, after its size and SHA-256 agree with the manifest.

A rank pins the shards that it needs soon: it holds a shared lock on the file, which the kernel drops when the process
dies. Among the unpinned shards, the one released last is evicted first: an epoch reads every shard once, so the shard
just released is needed last. A shard that is evicted while it is read stays readable, since its file is mapped.
If the store is a local folder, nothing is copied: shards are verified in place.
"""

import contextlib
import fcntl
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field

from pipeline import telemetry, waiting
from pipeline.config import Config
from pipeline.console.command import CACHE_DIR
from pipeline.format.checksum import HashingWriter, sha256_file
from pipeline.format.index import load_index
from pipeline.format.manifest import Manifest, ShardEntry
from pipeline.shards.interface import CacheError
from pipeline.shards.mapped import MappedShard
from pipeline.store import ReplacedObjectError, Store
from pipeline.store.private import private_folder

_MAX_OPEN_SHARDS = 256

_log = logging.getLogger(__name__)


class CacheConfig(Config):
    """The local copy of shards of a remote store.

    Attributes:
        folder: Local folder, shared by the ranks of a node.
        max_bytes: Size limit for all data sets together; may be written as 200GB.
    """

    folder: str = CACHE_DIR
    max_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(100_000_000_000)


class ShardCache:
    """The shards of one manifest, opened on demand. Safe with many threads and many processes.

    `config` matters for remote stores only. Its `max_bytes` is a soft limit: pinned shards, and the shard just fetched,
    always stay. `is_full`: over budget, and every other shard is pinned.
    `is_stored`: images are on the local disk, so reading them sends no request.
    """

    is_stored = True

    def __init__(self, store: Store, manifest: Manifest, config: CacheConfig) -> None:
        self._store, self._manifest = store, manifest
        self._directory = Path(config.folder).expanduser() / manifest.digest[:16]
        self.num_shards = len(manifest.shards)
        self._is_remote, self.is_full = store.local_path("") is None, False
        self.max_bytes = config.max_bytes if self._is_remote else sys.maxsize
        self._open: OrderedDict[int, MappedShard] = OrderedDict()
        self._pinned: dict[int, MappedShard] = {}
        self._table_lock = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in manifest.shards]

    def shard(self, i: int) -> MappedShard:
        """Shard `i`. Blocks until it is fetched and verified, unless it is cached.

        Raises:
            CacheError: its size or hash differs from the manifest, or the directory cannot be used.
            StoreError: the store cannot be read, or the disk is full.
        """
        with self._table_lock:
            if i in self._pinned:
                return self._pinned[i]
            if i in self._open:
                self._open.move_to_end(i)
                return self._open[i]
        with self._shard_locks[i]:
            if i not in self._open:
                shard = self._obtain(i)
                self._unpin(shard)
                return shard
        return self.shard(i)

    def pin(self, i: int) -> MappedShard:
        """As `shard`, but no process evicts the shard until this process calls `release`."""
        with self._shard_locks[i]:
            shard = self._open.get(i)
            if not shard or (self._is_remote and not shard.pin()):
                shard = self._obtain(i)
            self._pinned[i] = shard
            return shard

    def release(self, i: int) -> None:
        """Undo `pin`. Does nothing if the shard is not pinned."""
        if shard := self._pinned.pop(i, None):
            self._unpin(shard)
            self.is_full = False

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return sum(self._manifest.shards[i].num_bytes for i in shards)

    def _unpin(self, shard: MappedShard) -> None:
        if self._is_remote:
            shard.unpin()

    def _obtain(self, i: int) -> MappedShard:
        """Open and pin shard `i`, and add it to the table."""
        shard = self._open_shard(self._manifest.shards[i])
        with self._table_lock:
            self._open[i] = shard
            if len(self._open) > _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return shard

    def _open_shard(self, entry: ShardEntry) -> MappedShard:
        tar, index = self._store.local_path(entry.tar_name), self._store.local_path(entry.index_name)
        try:
            if tar is None or index is None:
                return self._obtain_remote(entry)
            return self._obtain_local(entry, tar, index)
        except OSError as error:
            raise CacheError(
                f"cannot open shard {entry.name} of {self._store.url}: {error.strerror} ({error.filename})"
            ) from None

    def _obtain_local(self, entry: ShardEntry, tar: Path, index: Path) -> MappedShard:
        if not tar.exists() or not index.exists():
            raise CacheError(
                f"shard {entry.name} of {self._store.url} is in the manifest but its files are missing; "
                "run 'shard-builder verify' on the data set"
            )
        self._verify(entry.tar_name, tar.stat().st_size, sha256_file(tar), entry.sha256, entry.num_bytes)
        return MappedShard(tar, load_index(index, entry))

    def _obtain_remote(self, entry: ShardEntry) -> MappedShard:
        private_folder(self._directory)
        with _process_lock(self._directory / f"{entry.name}.lock", entry.name):
            shard = self._open_cached(entry)
            telemetry.CACHE_LOOKUPS.labels("hit" if shard else "miss").inc()
            while shard is None:  # again if another process evicts it at once
                self._download(entry.index_name, entry.index_sha256)
                self._download(entry.tar_name, entry.sha256, entry.num_bytes)
                shard = self._open_cached(entry)
        self._evict()
        self._close_evicted()
        return shard

    def _open_cached(self, entry: ShardEntry) -> MappedShard | None:
        """The shard, pinned; None if the directory does not hold all of it."""
        tar, index = self._directory / entry.tar_name, self._directory / entry.index_name
        try:
            if tar.stat().st_size != entry.num_bytes or not index.exists():
                return None
            shard = MappedShard(tar, load_index(index, entry))
            return shard if shard.pin() else None
        except FileNotFoundError:
            return None

    def _download(self, name: str, sha256: str, num_bytes: int | None = None) -> None:
        """Fetch and verify a file. If it is damaged twice, keep the bytes as `NAME.damaged` for inspection."""
        partial, damaged = self._directory / f"{name}.part", self._directory / f"{name}.damaged"
        try:
            try:
                self._fetch(name, partial, sha256, num_bytes)
            except (CacheError, ReplacedObjectError) as error:
                # Perhaps damaged on the way: networks rarely do that.
                telemetry.STORE_ERRORS.labels(kind="damaged").inc()
                _log.warning("%s; fetching it once more", error)
                try:
                    self._fetch(name, partial, sha256, num_bytes)
                except CacheError:
                    os.replace(partial, damaged)
                    raise
            os.replace(partial, self._directory / name)
            damaged.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)

    def _fetch(self, name: str, path: Path, sha256: str, num_bytes: int | None) -> None:
        with waiting.phase(f"download of {name}"), self._store.writing(path) as file:
            writer = HashingWriter(file)
            for part in self._store.parts(name):
                writer.write(part)
        self._verify(name, writer.num_bytes, writer.hexdigest, sha256, num_bytes)

    def _verify(self, name: str, actual_bytes: int, actual_sha256: str, sha256: str, num_bytes: int | None) -> None:
        if num_bytes is not None and actual_bytes != num_bytes:
            raise CacheError(
                f"shard {name} of {self._store.url} has {actual_bytes} bytes, but its manifest says {num_bytes}; "
                "it was truncated or replaced: run 'shard-builder verify' and build it again"
            )
        if actual_sha256 != sha256:
            raise CacheError(
                f"shard {name} of {self._store.url} does not have the SHA-256 of its manifest; "
                "it was damaged or replaced: run 'shard-builder verify' and build it again"
            )

    def _evict(self) -> None:
        """Remove unpinned shards until the cache is within its budget, the last released first."""
        tars = sorted(self._directory.glob("*.tar"), key=_last_use, reverse=True)
        total = sum(_num_bytes(tar) for tar in tars)
        for tar in tars:
            if total <= self.max_bytes:
                break
            num_bytes = _num_bytes(tar)
            if _remove(tar):
                total -= num_bytes
        self.is_full = total > self.max_bytes
        telemetry.CACHE_BYTES.labels(self._directory.name).set(total)

    def _close_evicted(self) -> None:
        """Close shards that this or another rank has evicted, to free their disk space."""
        with self._table_lock:
            for i in [i for i, shard in self._open.items() if shard.is_evicted]:
                del self._open[i]


@contextlib.contextmanager
def _process_lock(path: Path, shard: str) -> Iterator[None]:
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
