"""The shard cache: one download, nothing unverified, and no more disk than allowed."""

import fcntl
import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import Counter

from pipeline.errors import UserError
from pipeline.shards.interface import CacheError
from pipeline.store import Store, StoreError
from pipeline.telemetry import CACHE_BYTES, CACHE_LOOKUPS, STORE_ERRORS, STORE_READ_BYTES
from support.caches import manifest_of, open_cache
from support.shards import image, jpegs, write_shards


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    """A store that is not a local folder, with four shards of three images."""
    store = Store(f"memory://{tmp_path.name}")
    write_shards(store.url, *(jpegs(3, 3 * shard) for shard in range(4)))
    return store


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """The same as a local folder."""
    store = Store(tmp_path / "local")
    write_shards(store.url, *(jpegs(3, 3 * shard) for shard in range(4)))
    return store


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


def moved(counter: Counter, action: Callable[[], object]) -> float:
    before = counter._value.get()
    action()
    return counter._value.get() - before


def tars(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*.tar"))


def test_images_come_out_as_they_went_in(store: Store, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    for shard in range(4):
        assert [image(cache.shard(shard), i) for i in range(3)] == jpegs(3, 3 * shard)
        assert cache.shard(shard).index["label"].tolist() == [3 * shard, 3 * shard + 1, 3 * shard + 2]


def test_a_local_store_is_read_in_place(local: Store, tmp_path: Path) -> None:
    assert open_cache(local, tmp_path).shard(0).path.parent == tmp_path / "local"
    assert not (tmp_path / "cache").exists()


class SlowStore(Store):
    """A store with some latency, so that whoever may download twice does."""

    def parts(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        time.sleep(0.05)
        return super().parts(name, start, stop)


def test_many_threads_of_many_processes_download_a_shard_once(remote: Store, tmp_path: Path) -> None:
    # Each cache stands for a process: they share nothing but the directory.
    caches = [open_cache(SlowStore(remote.url), tmp_path) for _ in range(3)]
    misses, hits = CACHE_LOOKUPS.labels("miss"), CACHE_LOOKUPS.labels("hit")
    hits_before, misses_before = hits._value.get(), misses._value.get()

    def everyone_asks() -> None:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda i: image(caches[i % 3].shard(1), 0), range(48)))

    num_bytes = moved(STORE_READ_BYTES, everyone_asks)
    assert num_bytes == remote.size("tiny-000001.tar") + remote.size("tiny-000001.index.npy")
    assert (misses._value.get() - misses_before, hits._value.get() - hits_before) == (1, 2)


def test_a_later_run_finds_the_shards(remote: Store, tmp_path: Path) -> None:
    open_cache(remote, tmp_path).shard(2)
    later = open_cache(remote, tmp_path)
    assert moved(STORE_READ_BYTES, lambda: later.shard(2)) == 0


def test_a_shard_that_was_cut_in_the_cache_is_fetched_again(remote: Store, tmp_path: Path) -> None:
    path = open_cache(remote, tmp_path).shard(2).path
    os.truncate(path, 1024)
    assert image(open_cache(remote, tmp_path).shard(2), 0) == jpegs(1, 6)[0]


def test_another_data_set_in_the_same_directory_is_another(remote: Store, tmp_path: Path) -> None:
    other = Store(f"{remote.url}-other")
    write_shards(other.url, jpegs(3, 50))
    open_cache(remote, tmp_path).shard(0)
    assert image(open_cache(other, tmp_path).shard(0), 0) == jpegs(1, 50)[0]


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


def test_an_evicted_shard_can_be_read_to_the_end_and_then_gives_its_space_back(remote: Store, tmp_path: Path) -> None:
    cache = open_cache(remote, tmp_path, max_bytes=1)
    held = cache.shard(0)
    for shard in range(1, 4):
        cache.shard(shard)
    assert tars(tmp_path) == ["tiny-000003.tar"]
    assert image(held, 2) == jpegs(1, 2)[0]
    assert set(still_on_disk(tmp_path)) == {str(held.path)}
    del held
    assert still_on_disk(tmp_path) == []
    assert image(cache.shard(0), 2) == jpegs(1, 2)[0]


def test_a_shard_that_is_cut_short_while_it_is_used_is_named(store: Store, tmp_path: Path) -> None:
    held = open_cache(store, tmp_path).shard(1)
    os.truncate(held.path, 4096)
    with pytest.raises(
        CacheError, match=r"tiny-000001\.tar was truncated while it was in use; find the program that writes there"
    ):
        image(held, 2)


def test_images_outlive_their_shard(remote: Store, tmp_path: Path) -> None:
    cache = open_cache(remote, tmp_path, max_bytes=1)
    rows = cache.shard(0).index
    images = cache.shard(0).images(rows["offset"].tolist(), rows["size"].tolist())
    for shard in range(1, 4):
        cache.shard(shard)
    gc.collect()
    assert [bytes(file) for file in images] == jpegs(3)


def still_on_disk(directory: Path) -> list[str]:
    """Files below `directory` that are removed but open, and so keep their space."""
    gc.collect()
    links = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [
        str(link).removesuffix(" (deleted)")
        for link in links
        if str(link).endswith(".tar (deleted)") and link.is_relative_to(directory)
    ]


def cut(data: bytes) -> bytes:
    return data[:-512]


def flip(data: bytes) -> bytes:
    return data[:700] + bytes([data[700] ^ 1]) + data[701:]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, r"has \d+ bytes, but its manifest says \d+; it was truncated or replaced"),
        (flip, "does not have the SHA-256 of its manifest; it was damaged or replaced"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(
    store: Store, tmp_path: Path, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    whole = store.read("tiny-000002.tar")
    store.put("tiny-000002.tar", damage(whole))
    cache = open_cache(store, tmp_path)
    assert image(cache.shard(1), 0)
    for _ in range(2):  # it does not get in by asking again
        with pytest.raises(CacheError, match=rf"shard tiny-000002\.tar of {store.url} {sentence}"):
            cache.shard(2)
    store.put("tiny-000002.tar", whole)
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0]


def test_a_damaged_index_is_refused_by_name_and_not_kept(store: Store, tmp_path: Path) -> None:
    whole = store.read("tiny-000002.index.npy")
    store.put("tiny-000002.index.npy", cut(whole))
    cache = open_cache(store, tmp_path)
    with pytest.raises(UserError, match=r"tiny-000002\.index\.npy .*does not have the (SHA-256|hash)"):
        cache.shard(2)
    store.put("tiny-000002.index.npy", whole)
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0]


@pytest.mark.parametrize("name", ["tiny-000002.tar", "tiny-000002.index.npy"])
def test_a_missing_shard_is_one_sentence(store: Store, tmp_path: Path, name: str) -> None:
    cache = open_cache(store, tmp_path)
    store.delete(name)
    with pytest.raises(
        UserError, match=r"tiny-000002.*(is in the manifest but its files are missing|there is no such object)"
    ):
        cache.shard(2)


def test_a_full_disk_is_one_sentence(remote: Store, tmp_path: Path) -> None:
    cache = open_cache(remote, tmp_path)
    cache.shard(0)
    (directory,) = (tmp_path / "cache").iterdir()
    (directory / "tiny-000002.tar.part").symlink_to("/dev/full")  # whoever writes there is told ENOSPC
    with pytest.raises(StoreError, match=r"cannot write .*tiny-000002\.tar\.part: the disk is full"):
        cache.shard(2)
    assert tars(tmp_path) == ["tiny-000000.tar"]
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0]


def test_a_cache_directory_that_cannot_be_used_is_one_sentence(remote: Store, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match=r"cannot open shard tiny-000000 of memory://.*: Not a directory \(.*cache"):
        open_cache(remote, tmp_path).shard(0)


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_shard_that_was_damaged_on_the_way_is_fetched_again(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    parts, damages = Store.parts, [damage]

    def damage_in_transit(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        whole = b"".join(parts(store, name, start, stop))
        return iter([damages.pop()(whole) if name.endswith(".tar") and damages else whole])

    monkeypatch.setattr(Store, "parts", damage_in_transit)
    assert moved(STORE_ERRORS.labels("damaged"), lambda: image(open_cache(remote, tmp_path).shard(2), 0)) == 1
    assert tars(tmp_path) == ["tiny-000002.tar"] and not list(tmp_path.rglob("*.damaged"))


def test_a_shard_that_is_damaged_in_the_store_is_set_aside(remote: Store, tmp_path: Path) -> None:
    whole = remote.read("tiny-000002.tar")
    remote.put("tiny-000002.tar", flip(whole))
    cache = open_cache(remote, tmp_path)
    with pytest.raises(CacheError, match=r"shard tiny-000002\.tar .* run 'shard-builder verify'"):
        cache.shard(2)
    (damaged,) = tmp_path.rglob("*.damaged")
    assert damaged.name == "tiny-000002.tar.damaged" and damaged.read_bytes() == flip(whole)
    remote.put("tiny-000002.tar", whole)
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0] and not damaged.exists()
