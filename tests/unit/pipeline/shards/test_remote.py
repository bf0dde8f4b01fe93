"""A stream without a cache: the same images, read by range, and nothing on the disk."""

import os
import threading
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.format.index import INDEX_DTYPE, ShardIndexError
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.shards.data_sets import read_manifest
from pipeline.shards.interface import OpenShard
from pipeline.shards.remote import RemoteShards
from pipeline.store import Store
from pipeline.stream import StreamConfig, open_training_stream
from support.shards import jpegs, write_shards

IMAGES = [os.urandom(size) for size in (100, 40_000, 70_000, 10, 200_000, 30_000)]


@pytest.fixture(scope="module")
def store() -> Store:
    """A store that is not a local folder, with one shard of images of all sizes."""
    store = Store("memory://remote")
    write_shards(store.url, IMAGES)
    return store


def read(shard: OpenShard, rows: list[int]) -> list[bytes]:
    index = shard.rows.view(INDEX_DTYPE)[rows]
    buffers = [bytearray(size) for size in index["size"].tolist()]
    shard.read_into(index["offset"].tolist(), [memoryview(buffer) for buffer in buffers])
    return list(map(bytes, buffers))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=8))
def test_any_rows_in_any_order_come_out_as_they_went_in(store: Store, rows: list[int]) -> None:
    assert read(RemoteShards(store, read_manifest(store)).shard(0), rows) == [IMAGES[row] for row in rows]


def test_neighbours_share_a_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read_range = Store.read_range

    def counting(store: Store, name: str, start: int, length: int) -> bytes:
        asked.append(length)
        return read_range(store, name, start, length)

    monkeypatch.setattr(Store, "read_range", counting)
    shard = RemoteShards(store, read_manifest(store)).shard(0)
    read(shard, [5, 1, 0, 3])
    assert len(asked) == 3  # 70,000 bytes between 1 and 3, 200,000 between 3 and 5


def test_a_stream_without_cache_yields_what_one_with_a_cache_does(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    write_shards(url, *(jpegs(8, 8 * shard) for shard in range(4)))
    streams = [
        open_training_stream(StreamConfig(shards=url, order=OrderConfig(lanes=2), cache=cache), seed=0, global_batch=4)
        for cache in (None, CacheConfig(folder=str(tmp_path / "cache")))
    ]
    without = list(islice(streams[0].forever(), 20))
    assert not (tmp_path / "cache").exists()
    for ours, theirs in zip(without, islice(streams[1].forever(), 20), strict=True):
        assert ours.images == theirs.images and ours.ids.tolist() == theirs.ids.tolist()


def test_the_shards_of_a_step_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{tmp_path.name}"
    write_shards(url, *(jpegs(8, 8 * shard) for shard in range(2)))
    read_range, together = Store.read_range, threading.Barrier(2, timeout=10)

    def meeting(store: Store, name: str, start: int, length: int) -> bytes:
        together.wait()
        return read_range(store, name, start, length)

    config = StreamConfig(shards=url, order=OrderConfig(lanes=2), cache=None, num_threads=1, sample_look_ahead_steps=0)
    stream = open_training_stream(config, seed=0, global_batch=2)
    monkeypatch.setattr(Store, "read_range", meeting)
    batch = next(iter(stream))
    assert [bytes(file) for file in batch.images] == [jpegs(1, i)[0] for i in batch.ids.tolist()]


@pytest.mark.usefixtures("no_pauses")
def test_a_damaged_index_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    manifest = write_shards(store.url, jpegs(2))
    store.put("tiny-000000.samples.npy", store.read("tiny-000000.samples.npy")[:-1])
    with pytest.raises(ShardIndexError, match=r"tiny-000000\.samples\.npy does not have the digest"):
        RemoteShards(store, manifest).shard(0)
