"""Caches of the shards in a store, as the tests of caches open them."""

from pathlib import Path

from pipeline.format.manifest import Manifest
from pipeline.shards.cache import CacheConfig, ShardCache
from pipeline.store import Store

PLENTY = 10**9


def manifest_of(store: Store) -> Manifest:
    return Manifest.from_bytes(store.read("manifest.json"), store.url)


def open_cache(store: Store, directory: Path, max_bytes: int = PLENTY) -> ShardCache:
    return ShardCache(store, manifest_of(store), CacheConfig(folder=str(directory / "cache"), max_bytes=max_bytes))
