"""Caches of the shards in a store, as the tests of caches open them."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import Counter

from pipeline.format.manifest import Manifest
from pipeline.shards.cache import ShardCache, cache_folder
from pipeline.shards.data_sets import read_manifest
from pipeline.shards.disk_budget import DiskBudget
from pipeline.store import Store

PLENTY = 10**9


def manifest_of(store: Store) -> Manifest:
    return read_manifest(store)


def open_cache(store: Store, directory: Path, max_bytes: int = PLENTY, max_open: int = 256) -> ShardCache:
    """The cache of a data set, in `directory/cache`; it stands for a process of its own."""
    manifest = manifest_of(store)
    budget = DiskBudget(directory / "cache", max_bytes, {cache_folder(manifest): manifest.num_bytes})
    return ShardCache(store, manifest, budget, max_open)


def moved(counter: Counter, action: Callable[[], object]) -> float:
    """By how much `action` moves a counter."""
    before = counter._value.get()
    action()
    return float(counter._value.get() - before)


def tars(directory: Path) -> list[str]:
    """The names of the tars below a folder."""
    return sorted(path.name for path in directory.rglob("*.tar"))
