"""Shards on local disk: downloaded once per node, evicted when the disk budget is spent.

The ranks of a node share one directory. There is one lock file per shard, so that one rank downloads while the others
wait. A shard becomes visible by an atomic rename: its index after its digest agrees with the manifest, its tar after
its size does, both after the disk has them. The images are verified when they are read: see `SampleReader`, which asks
for a shard anew (`renewed`) if an image is damaged.

A rank pins the shards that it needs soon: it holds a shared lock on the file, which the kernel drops when the process
dies. If the store is a local folder, nothing is copied.
"""

import errno
import logging
import os
import resource
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ByteSize, Field

from pipeline import telemetry, waiting
from pipeline.config import Config
from pipeline.console.command import CACHE_DIR
from pipeline.format.index import ShardIndexError, index_from_bytes
from pipeline.format.manifest import Manifest
from pipeline.format.shard_table import ShardEntry
from pipeline.shards.disk_budget import DiskBudget, process_lock
from pipeline.shards.interface import CacheError, OpenShard
from pipeline.shards.shard_file import ShardFile
from pipeline.shards.verified import read_verified
from pipeline.store import ReplacedObjectError, Store

_log = logging.getLogger(__name__)


class CacheConfig(Config):
    """The local copy of shards of a remote store.

    Attributes:
        folder: Local folder, shared by the ranks of a node.
        max_bytes: Size limit for all data sets together; may be written as 200GB.
    """

    folder: str = CACHE_DIR
    max_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(100_000_000_000)


def cache_folder(manifest: Manifest) -> str:
    """The name of a data set's folder in the cache."""
    return manifest.digest[:16]


class ShardCache:
    """The shards of one manifest, opened on demand. Safe with many threads and many processes.

    `budget` matters for remote stores only. At most `max_open` shards are open beside those that are pinned.
    `is_stored`: images are on the local disk, so reading them sends no request.
    """

    is_stored = True

    def __init__(self, store: Store, manifest: Manifest, budget: DiskBudget, max_open: int) -> None:
        self._store, self._manifest, self._budget, self._max_open = store, manifest, budget, max_open
        self._directory = budget.root / cache_folder(manifest)
        self.num_shards = len(manifest.shards)
        self._is_remote = store.local_path("") is None
        self.max_bytes = budget.max_bytes if self._is_remote else sys.maxsize
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._pinned: dict[int, ShardFile] = {}
        self._table_lock = threading.Lock()
        self._shard_locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @property
    def is_full(self) -> bool:
        """See `DiskBudget`."""
        return self._budget.is_full

    def shard(self, i: int) -> ShardFile:
        """Shard `i`. Blocks until it is fetched, unless it is cached.

        Raises:
            CacheError: its size differs from the manifest, or the directory cannot be used.
            ShardIndexError: its index differs from the manifest.
            StoreError: the store cannot be read, or the disk is full.
        """
        with self._table_lock:
            if i in self._pinned:
                return self._pinned[i]
            if i in self._open:
                self._open.move_to_end(i)
                return self._open[i]
        with self._lock_of(i):
            if i not in self._open:
                shard = self._obtain(i)
                self._unpin(shard)
                return shard
        return self.shard(i)

    def pin(self, i: int) -> ShardFile:
        """As `shard`, but no process evicts the shard until this process calls `release`."""
        with self._lock_of(i):
            shard = self._open.get(i)
            if not shard or (self._is_remote and not shard.pin()):
                shard = self._obtain(i)
            self._pinned[i] = shard
            return shard

    def release(self, i: int) -> None:
        """Undo `pin`. Does nothing if the shard is not pinned."""
        if shard := self._pinned.pop(i, None):
            self._unpin(shard)
            self._budget.is_full = False

    def renewed(self, i: int, shard: OpenShard) -> ShardFile:
        """Shard `i` once more, after bytes of `shard` did not have their checksum.

        A copy of a remote shard is deleted and fetched again, unless another thread or process has done so. A shard in
        a local store is opened again.
        """
        assert isinstance(shard, ShardFile)
        with self._lock_of(i):
            current = self._pinned.get(i) or self._open.get(i)
            if current and current is not shard:
                return current
            fresh = self._obtain(i, damaged=shard)
            if i in self._pinned:
                self._pinned[i] = fresh
            else:
                self._unpin(fresh)
            return fresh

    def num_bytes(self, shards: Iterable[int]) -> int:
        """Total size of these shards."""
        return int(self._manifest.shards.num_bytes[np.fromiter(shards, np.int64)].sum())

    def url(self, i: int) -> str:
        """The address of a tar, for messages."""
        return f"{self._store.url}/{self._manifest.shards[i].tar_name}"

    def _lock_of(self, i: int) -> threading.Lock:
        with self._table_lock:
            return self._shard_locks[i]

    def _unpin(self, shard: ShardFile) -> None:
        if self._is_remote:
            shard.unpin()

    def _obtain(self, i: int, damaged: ShardFile | None = None) -> ShardFile:
        """Open and pin shard `i`, and add it to the table."""
        shard = self._open_shard(self._manifest.shards[i], damaged)
        with self._table_lock:
            self._open[i] = shard
            self._open.move_to_end(i)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return shard

    def _open_shard(self, entry: ShardEntry, damaged: ShardFile | None) -> ShardFile:
        tar, index = self._store.local_path(entry.tar_name), self._store.local_path(entry.index_name)
        try:
            if tar is None or index is None:
                return self._obtain_remote(entry, damaged)
            return self._obtain_local(entry, tar, index)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                raise CacheError(
                    f"this process may not open more than {limit} files; raise the limit with 'ulimit -n 4096' "
                    "(or LimitNOFILE, or --ulimit nofile=4096 of a container) and start again"
                ) from None
            raise CacheError(
                f"cannot open shard {entry.name} of {self._store.url}: {error.strerror} ({error.filename})"
            ) from None

    def _obtain_local(self, entry: ShardEntry, tar: Path, index: Path) -> ShardFile:
        if not tar.exists() or not index.exists():
            raise CacheError(
                f"shard {entry.name} of {self._store.url} is in the manifest but its files are missing; "
                "run 'shard-builder verify' on the data set"
            )
        self._check_size(entry, tar.stat().st_size)
        return ShardFile(tar, index_from_bytes(index.read_bytes(), entry, str(index)))

    def _obtain_remote(self, entry: ShardEntry, damaged: ShardFile | None) -> ShardFile:
        self._directory.mkdir(parents=True, exist_ok=True)
        with process_lock(self._directory / f"{entry.name}.lock", entry.name):
            if damaged and damaged.is_at_its_path:
                damaged.path.unlink()
            shard = self._open_cached(entry)
            telemetry.CACHE_LOOKUPS.labels("hit" if shard else "miss").inc()
            while shard is None:  # again if another process evicts it at once
                self._download(entry)
                shard = self._open_cached(entry)
        self._budget.evict()
        self._close_evicted()
        return shard

    def _open_cached(self, entry: ShardEntry) -> ShardFile | None:
        """The shard, pinned; None if the directory does not hold all of it."""
        tar, index = self._directory / entry.tar_name, self._directory / entry.index_name
        try:
            if tar.stat().st_size != entry.num_bytes or not index.exists():
                return None
            shard = ShardFile(tar, index_from_bytes(index.read_bytes(), entry, str(index)))
            return shard if shard.pin() else None
        except (FileNotFoundError, ShardIndexError):
            return None

    def _download(self, entry: ShardEntry) -> None:
        """Fetch index and tar, each once more if it is not what the manifest says: perhaps damaged on the way."""

        def parse(content: bytes) -> bytes:
            index_from_bytes(content, entry, f"{self._store.url}/{entry.index_name}")
            return content

        index = read_verified(self._store, entry.index_name, parse, ShardIndexError)
        self._publish(entry.index_name, [index])
        try:
            self._fetch_tar(entry)
        except (CacheError, ReplacedObjectError) as error:
            telemetry.STORE_ERRORS.labels(kind="damaged").inc()
            _log.warning("%s; fetching it once more", error)
            self._fetch_tar(entry)

    def _fetch_tar(self, entry: ShardEntry) -> None:
        with waiting.phase(f"download of {entry.tar_name}"):
            self._publish(entry.tar_name, self._store.parts(entry.tar_name), entry)

    def _publish(self, name: str, parts: Iterable[bytes], entry: ShardEntry | None = None) -> None:
        """Write a file of the cache; it becomes visible when it is complete, and on the disk."""
        partial = self._directory / f"{name}.part"
        try:
            with self._store.writing(partial) as file:
                for part in parts:
                    file.write(part)
                if entry:
                    self._check_size(entry, file.tell())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._directory / name)
        finally:
            partial.unlink(missing_ok=True)

    def _check_size(self, entry: ShardEntry, num_bytes: int) -> None:
        if num_bytes != entry.num_bytes:
            raise CacheError(
                f"shard {entry.tar_name} of {self._store.url} has {num_bytes} bytes, but its manifest says "
                f"{entry.num_bytes}; it was truncated or replaced: run 'shard-builder verify' and build it again"
            )

    def _close_evicted(self) -> None:
        """Close shards that this or another rank has evicted, to free their disk space."""
        with self._table_lock:
            for i in [i for i, shard in self._open.items() if shard.is_evicted]:
                del self._open[i]
