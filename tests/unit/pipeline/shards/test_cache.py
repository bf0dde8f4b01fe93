"""The shard cache: one download, nothing of the wrong size, and no more disk than allowed."""

import contextlib
import gc
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.shards.interface import CacheError
from pipeline.store import Store, StoreError
from pipeline.telemetry import CACHE_LOOKUPS, STORE_ERRORS, STORE_READ_BYTES
from support.caches import moved, open_cache, tars
from support.shards import image, jpegs, write_shards


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """The same as a local folder."""
    store = Store(tmp_path / "local")
    write_shards(store.url, *(jpegs(3, 3 * shard) for shard in range(4)))
    return store


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


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
    assert num_bytes == remote.size("tiny-000001.tar") + remote.size("tiny-000001.samples.npy")
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


def test_a_shard_of_another_size_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    whole = store.read("tiny-000002.tar")
    store.put("tiny-000002.tar", cut(whole))
    cache = open_cache(store, tmp_path)
    assert image(cache.shard(1), 0)
    for _ in range(2):  # it does not get in by asking again
        with pytest.raises(
            CacheError,
            match=rf"shard tiny-000002\.tar of {store.url} has \d+ bytes, but its manifest says \d+; it was truncated",
        ):
            cache.shard(2)
    store.put("tiny-000002.tar", whole)
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0]


@pytest.mark.usefixtures("no_pauses")
def test_a_damaged_index_is_refused_by_name_and_not_kept(store: Store, tmp_path: Path) -> None:
    whole = store.read("tiny-000002.samples.npy")
    store.put("tiny-000002.samples.npy", cut(whole))
    cache = open_cache(store, tmp_path)
    with pytest.raises(UserError, match=r"tiny-000002\.samples\.npy .*does not have the digest"):
        cache.shard(2)
    store.put("tiny-000002.samples.npy", whole)
    assert image(cache.shard(2), 0) == jpegs(1, 6)[0]


@pytest.mark.parametrize("name", ["tiny-000002.tar", "tiny-000002.samples.npy"])
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


def test_a_shard_that_was_cut_on_the_way_is_fetched_again(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, damages = Store.parts, [cut]

    def damage_in_transit(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        whole = b"".join(parts(store, name, start, stop))
        return iter([damages.pop()(whole) if name.endswith(".tar") and damages else whole])

    monkeypatch.setattr(Store, "parts", damage_in_transit)
    assert moved(STORE_ERRORS.labels("damaged"), lambda: image(open_cache(remote, tmp_path).shard(2), 0)) == 1
    assert tars(tmp_path) == ["tiny-000002.tar"]


def test_a_damaged_index_in_the_cache_is_fetched_again(remote: Store, tmp_path: Path) -> None:
    index = open_cache(remote, tmp_path).shard(2).path.with_suffix(".samples.npy")
    index.write_bytes(cut(index.read_bytes()))
    assert image(open_cache(remote, tmp_path).shard(2), 0) == jpegs(1, 6)[0]
    assert index.read_bytes() == remote.read("tiny-000002.samples.npy")


def test_a_file_is_on_the_disk_before_it_is_visible(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(file: int) -> None:
        acts.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def recording_replace(old: Path, new: Path) -> None:
        acts.append(f"show {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    open_cache(remote, tmp_path).shard(0)
    names = ["tiny-000000.samples.npy", "tiny-000000.tar"]
    assert acts == [act for name in names for act in (f"fsync {name}.part", f"show {name}")]


def test_few_files_are_open_at_once(remote: Store, tmp_path: Path) -> None:
    cache = open_cache(remote, tmp_path, max_open=2)
    gc.collect()  # files of earlier tests
    before = len(os.listdir("/proc/self/fd"))
    for shard in range(4):
        cache.shard(shard)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_a_low_limit_of_open_files_is_one_sentence(store: Store, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limits[1]))
    files = []
    try:
        with contextlib.suppress(OSError):
            while True:
                files.append(os.dup(0))
        with pytest.raises(UserError, match=r"may not open more than \d+ files; raise the limit with 'ulimit -n 4096'"):
            cache.pin(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in files:
            os.close(file)
