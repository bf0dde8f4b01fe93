"""Every byte of a sample is verified when it is read: on a local disk, in the cache, and without a cache."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.format.index import INDEX_DTYPE
from pipeline.shards.interface import ShardSource
from pipeline.shards.remote import RemoteShards
from pipeline.shards.samples import DamagedShardError, SampleReader
from pipeline.store import Store
from pipeline.telemetry import CACHE_LOOKUPS, STORE_ERRORS
from support.caches import manifest_of, open_cache
from support.shards import jpegs, write_shards

ALL = np.arange(12)
HOW = ["local", "cached", "by-range"]
Reads = dict[str, Callable[[SampleReader], list[bytes]]]
READS: Reads = {
    "images": lambda reader: list(map(bytes, reader.images(reader.locate(ALL)))),
    "keys": lambda reader: [key.encode() for key in reader.keys(ALL)],
    "samples": lambda reader: [sample.metadata + sample.image for sample in reader.samples(ALL)],
}


def build(url: str) -> Store:
    write_shards(url, *(jpegs(3, 3 * shard) for shard in range(4)), metadata=dict.fromkeys(range(12), b'{"a": 1}'))
    return Store(url)


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(how: str, tmp_path: Path) -> Store:
    return build(str(tmp_path / "local") if how == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def source(how: str, store: Store, tmp_path: Path) -> ShardSource:
    return RemoteShards(store, manifest_of(store)) if how == "by-range" else open_cache(store, tmp_path)


def reader_of(source: ShardSource, store: Store) -> SampleReader:
    return SampleReader(source, manifest_of(store).shards.num_samples)


def num_damaged() -> float:
    return float(STORE_ERRORS.labels("damaged")._value.get())


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def places(source: ShardSource, shard: int, number: int) -> dict[str, int]:
    """A byte of the image, and one of the bytes before it, of a sample."""
    rows = source.shard(shard).rows.view(INDEX_DTYPE)
    return {"images": int(rows[number]["offset"]) + 100, "keys": int(rows[number]["offset"]) - 500}


@pytest.mark.parametrize("what", READS)
def test_samples_come_out_as_they_went_in(source: ShardSource, store: Store, what: str) -> None:
    wanted = {"images": jpegs(12), "keys": [f"k{i:06d}".encode() for i in range(12)]}
    wanted["samples"] = [b'{"a": 1}' + image for image in wanted["images"]]
    assert READS[what](reader_of(source, store)) == wanted[what]


@pytest.mark.parametrize(
    ("what", "part"), [("images", "images"), ("keys", "keys"), ("samples", "images"), ("samples", "keys")]
)
def test_damage_in_the_store_is_named(source: ShardSource, store: Store, what: str, part: str) -> None:
    place = places(source, 2, 1)[part]
    store.put("tiny-000002.tar", flip(store.read("tiny-000002.tar"), place))
    source.renewed(2, source.shard(2))
    with pytest.raises(
        DamagedShardError,
        match=rf"{store.url}/tiny-000002\.tar does not have the checksum of its index at bytes \d+ to \d+: it was",
    ) as caught:
        READS[what](reader_of(source, store))
    words = str(caught.value).split()
    first = int(words[words.index("bytes") + 1])
    assert first <= place < int(words[words.index("bytes") + 3].rstrip(":"))


def test_a_damaged_copy_is_fetched_again_once_for_all_threads(tmp_path: Path) -> None:
    store = build(f"memory://{tmp_path.name}")
    cache = open_cache(store, tmp_path)
    path = cache.pin(1).path
    path.write_bytes(flip(path.read_bytes(), places(cache, 1, 2)["images"]))
    reader = reader_of(cache, store)
    for shard in (0, 2, 3):
        cache.shard(shard)
    misses = CACHE_LOOKUPS.labels("miss")
    before = misses._value.get()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: READS["images"](reader), range(8)))
    assert found == [jpegs(12)] * 8 and misses._value.get() == before + 1
    assert cache.pin(1).path.read_bytes() == store.read("tiny-000001.tar")


def test_a_copy_that_is_cut_while_it_is_open_is_fetched_again(tmp_path: Path) -> None:
    store = build(f"memory://{tmp_path.name}")
    cache = open_cache(store, tmp_path)
    before = num_damaged()
    os.truncate(cache.pin(1).path, 512)
    assert READS["images"](reader_of(cache, store)) == jpegs(12)
    assert num_damaged() == before + 1


def test_a_local_file_that_is_cut_while_it_is_open_ends_in_one_sentence(tmp_path: Path) -> None:
    store = build(str(tmp_path / "local"))
    cache = open_cache(store, tmp_path)
    os.truncate(cache.pin(1).path, 4096)
    with pytest.raises(Exception, match=r"tiny-000001\.tar .*(damaged, cut or replaced|it was truncated or replaced)"):
        READS["images"](reader_of(cache, store))


def test_bytes_that_were_damaged_on_the_way_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build(f"memory://{tmp_path.name}")
    read_range, damages = Store.read_range, [1]

    def damage_in_transit(store: Store, name: str, start: int, length: int) -> bytes:
        data = read_range(store, name, start, length)
        return flip(data, len(data) // 2) if damages and damages.pop() else data

    monkeypatch.setattr(Store, "read_range", damage_in_transit)
    before = num_damaged()
    assert READS["images"](reader_of(RemoteShards(store, manifest_of(store)), store)) == jpegs(12)
    assert num_damaged() == before + 1


def test_images_outlive_their_shard_and_later_reads(tmp_path: Path) -> None:
    store = build(f"memory://{tmp_path.name}")
    cache = open_cache(store, tmp_path, max_bytes=1)
    reader = reader_of(cache, store)
    images = reader.images(reader.locate(ALL[:3]))
    for _ in range(3):
        reader.images(reader.locate(ALL[3:]))
    assert list(map(bytes, images)) == jpegs(3)
    with pytest.raises(TypeError, match="read-only"):
        memoryview(images[0])[0] = 0


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("damaged", ["manifest.json", "shards.npy", "tiny-000001.samples.npy"])
def test_an_error_page_in_the_place_of_an_object_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    store, answers = build(f"memory://{tmp_path.name}"), [b"<html>busy</html>"]
    parts = Store.parts

    def busy(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return iter([answers.pop()]) if name == damaged and answers else parts(store, name, start, stop)

    monkeypatch.setattr(Store, "parts", busy)
    before = num_damaged()
    assert READS["images"](reader_of(open_cache(store, tmp_path), store)) == jpegs(12)
    assert num_damaged() == before + 1 and not answers
