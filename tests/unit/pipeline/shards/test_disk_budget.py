"""The disk budget of the cache: whose shards are evicted, in which order, and whose stay."""

import fcntl
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from pipeline.shards.cache import CacheConfig, cache_folder
from pipeline.shards.data_sets import JoinedDataSets, open_data_set
from pipeline.shards.disk_budget import split_evenly
from pipeline.store import Store
from pipeline.telemetry import CACHE_BYTES, STORE_READ_BYTES
from support.caches import manifest_of, moved, open_cache, tars
from support.shards import jpegs, write_shards


def test_the_shard_released_last_makes_room(remote: Store, tmp_path: Path) -> None:
    sizes = [entry.num_bytes for entry in manifest_of(remote).shards]
    cache = open_cache(remote, tmp_path, max_bytes=sum(sizes) - 1)
    for shard, released_s in enumerate([30, 20, 10]):
        os.utime(cache.shard(shard).path, (released_s, released_s))  # file times are coarse
    cache.pin(3)
    assert tars(tmp_path) == ["tiny-000001.tar", "tiny-000002.tar", "tiny-000003.tar"]
    assert CACHE_BYTES.labels(manifest_of(remote).digest[:16])._value.get() == sum(sizes[1:])


def test_a_budget_may_be_used_to_the_last_byte(remote: Store, tmp_path: Path) -> None:
    cache = open_cache(remote, tmp_path, max_bytes=sum(entry.num_bytes for entry in manifest_of(remote).shards))
    for shard in range(4):
        cache.pin(shard)
    assert len(tars(tmp_path)) == 4 and not cache.is_full


def test_the_time_of_release_counts_not_that_of_the_download(remote: Store, tmp_path: Path) -> None:
    sizes = [entry.num_bytes for entry in manifest_of(remote).shards]
    cache = open_cache(remote, tmp_path, max_bytes=sum(sizes) - 1)
    for shard, downloaded_s in enumerate([30, 20, 10]):
        os.utime(cache.pin(shard).path, (downloaded_s, downloaded_s))
    cache.release(1)
    cache.shard(3)
    assert tars(tmp_path) == ["tiny-000000.tar", "tiny-000002.tar", "tiny-000003.tar"]


def test_a_shard_that_a_process_is_about_to_open_stays(remote: Store, tmp_path: Path) -> None:
    """Between the look at the file and the lock on it a process holds only the lock file."""
    path = open_cache(remote, tmp_path).shard(0).path
    with path.with_suffix(".lock").open() as opening:
        fcntl.flock(opening, fcntl.LOCK_EX)
        open_cache(remote, tmp_path, max_bytes=1).shard(1)
        assert tars(tmp_path) == ["tiny-000000.tar", "tiny-000001.tar"]
    open_cache(remote, tmp_path, max_bytes=1).shard(1)
    assert tars(tmp_path) == ["tiny-000001.tar"]


def test_pinned_shards_stay_whoever_needs_room(remote: Store, tmp_path: Path) -> None:
    sizes = [entry.num_bytes for entry in manifest_of(remote).shards]
    ours, theirs = (open_cache(remote, tmp_path, max_bytes=max(sizes) * 2) for _ in range(2))
    for shard in (0, 1, 2):
        ours.pin(shard)
    assert ours.is_full and len(tars(tmp_path)) == 3
    theirs.shard(3)
    assert tars(tmp_path) == [f"tiny-00000{shard}.tar" for shard in range(4)]
    for shard in (0, 1):
        ours.release(shard)
    assert not ours.is_full
    open_cache(remote, tmp_path, max_bytes=sizes[2]).shard(3)
    assert tars(tmp_path) == ["tiny-000002.tar", "tiny-000003.tar"]  # the others are not pinned any longer
    assert moved(STORE_READ_BYTES, lambda: ours.pin(0)) > 0  # in the table of open shards, but evicted


def test_other_data_sets_make_room_first_and_the_oldest_of_them_before(remote: Store, tmp_path: Path) -> None:
    other = Store(f"{remote.url}-other")
    write_shards(other.url, *(jpegs(3, 50 + 3 * shard) for shard in range(3)))
    for number, released_s in enumerate([20, 10, 30]):
        os.utime(open_cache(other, tmp_path).shard(number).path, (released_s, released_s))
    sizes = [entry.num_bytes for entry in manifest_of(remote).shards]
    cache = open_cache(remote, tmp_path, max_bytes=sum(sizes[:3]) + 1)
    left = []
    for shard in range(3):
        cache.shard(shard)
        left.append([path.name[-5] for path in sorted(tmp_path.rglob("*.tar")) if path.parent.name != cache_of(remote)])
    assert left == [["0", "2"], ["2"], []]
    assert len(tars(tmp_path)) == 3


def test_a_small_data_set_of_a_mixture_keeps_its_share(remote: Store, tmp_path: Path) -> None:
    small = Store(f"{remote.url}-small")
    write_shards(small.url, jpegs(3, 50))
    size = manifest_of(remote).shards[0].num_bytes
    config = CacheConfig(folder=str(tmp_path / "cache"), max_bytes=ByteSize(3 * size))
    joined = JoinedDataSets([open_data_set(remote.url), open_data_set(small.url)], config)
    for shard in (0, 1, 4, 2, 3):  # 4 is the one of the small data set: released last, and yet it stays
        joined.shard(shard)
    kept = {path.parent.name: path.name for path in tmp_path.rglob("*.tar") if path.parent.name == cache_of(small)}
    assert kept == {cache_of(small): "tiny-000000.tar"}


def cache_of(store: Store) -> str:
    return cache_folder(manifest_of(store))


@given(st.integers(0, 1000), st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_a_budget_is_split_evenly_among_those_that_need_it(budget: int, needs: list[int]) -> None:
    parts = split_evenly(budget, needs)
    assert sum(parts) <= budget and all(part <= need for part, need in zip(parts, needs, strict=True))
    short = [part for part, need in zip(parts, needs, strict=True) if part < need]
    if short:
        assert max(short) - min(short) <= len(needs) and max(parts) <= max(short) + len(needs)
        assert budget - sum(parts) < len(needs)
    assert split_evenly(100, [500, 20, 500]) == [40, 20, 40]
