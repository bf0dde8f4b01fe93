"""The shards of the steps to come: there in time, no further ahead than allowed, and fetched once an epoch."""

import logging
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.format.manifest import Manifest
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.shards.window import ShardWindow, Step
from pipeline.store import Store
from pipeline.stream import StreamConfig, open_training_stream
from support.caches import open_cache
from support.shards import jpegs, write_shards

PLENTY = 10**9
NUM_SHARDS = 12


@pytest.fixture(scope="module")
def remote() -> tuple[Store, Manifest]:
    """A store that is not a local folder, with shards of equal size."""
    store = Store("memory://window")
    image = jpegs(1)[0]
    return store, write_shards(store.url, *([[image] * 4] * NUM_SHARDS))


def endless(shards: list[list[int]]) -> Iterator[Step]:
    return ((position, shards[position % len(shards)]) for position in count())


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch-shards")]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, NUM_SHARDS - 1), min_size=1, max_size=3, unique=True), min_size=1, max_size=30),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_shards_are_pinned_when_their_step_comes_and_no_more_are_fetched_than_allowed(
    remote: tuple[Store, Manifest],
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[int]],
    num_ahead: int,
    num_behind: int,
) -> None:
    store, manifest = remote
    cache = open_cache(store, tmp_path_factory.mktemp("window"))
    size = manifest.shards[0].num_bytes
    window = ShardWindow(cache, num_ahead * size, 2, num_behind)
    positions = window.positions(endless(shards))
    for here in range(40):
        assert next(positions) == here
        held = cache._pinned.keys()
        for step in range(max(here - num_behind, 0), here + 1):
            assert held >= set(shards[step % len(shards)])
        seen = {shard for step in shards[: here + 1] for shard in step}
        assert len(held - seen) <= num_ahead
    positions.close()  # type: ignore[attr-defined]
    assert not cache._pinned and alive() == []


def test_shards_are_fetched_in_the_order_of_their_first_use(remote: tuple[Store, Manifest], tmp_path: Path) -> None:
    store, manifest = remote
    asked: list[str] = []

    class Listening(Store):
        def parts(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            asked.append(name)
            return super().parts(name, start, stop)

    cache = open_cache(Listening(store.url), tmp_path)
    positions = ShardWindow(cache, PLENTY, 1, 0).positions(endless([[3, 1], [1, 7], [0], [3]]))
    list(islice(positions, 4))
    tars = [name for name in asked if name.endswith(".tar")]
    assert tars == [manifest.shards[shard].tar_name for shard in (3, 1, 7, 0)]


def test_a_failure_comes_in_the_place_of_its_step(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    write_shards(store.url, jpegs(1), jpegs(1), jpegs(1))
    store.delete("tiny-000001.tar")
    positions = ShardWindow(open_cache(store, tmp_path), PLENTY, 2, 0).positions(endless([[0], [2], [1]]))
    assert list(islice(positions, 2)) == [0, 1]
    with pytest.raises(UserError, match=r"tiny-000001\.tar: there is no such object"):
        next(positions)
    assert alive() == []


def test_a_budget_below_what_is_needed_at_once_is_one_warning(
    remote: tuple[Store, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, manifest = remote
    size = manifest.shards[0].num_bytes
    cache = open_cache(store, tmp_path, max_bytes=3 * size)
    with caplog.at_level(logging.WARNING):
        list(islice(ShardWindow(cache, PLENTY, 2, 0).positions(endless([[0, 1], [2, 3], [4, 5]])), 12))
    assert caplog.messages == []  # two steps do not fit, so nothing is fetched ahead
    with caplog.at_level(logging.WARNING):
        list(islice(ShardWindow(cache, PLENTY, 2, 0).positions(endless([[0, 1, 2, 3], [4, 5]])), 12))
    (message,) = caplog.messages
    assert f"shards in use have {4 * size} bytes" in message and f"data.stream.cache.max_bytes is {3 * size}" in message


def stream_epochs(url: str, folder: str, max_bytes: int, rank: int, num_epochs: int) -> "Counter[str]":
    """What one of two ranks downloads."""
    fetched: Counter[str] = Counter()
    parts = Store.parts

    def counting(self: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        fetched[name] += name.endswith(".tar")
        return parts(self, name, start, stop)

    Store.parts = counting  # type: ignore[method-assign]
    config = StreamConfig(
        shards=url,
        order=OrderConfig(lanes=2, block_shards=2),
        cache=CacheConfig(folder=folder, max_bytes=max_bytes),
        sample_look_ahead_steps=1,
    )
    stream = open_training_stream(config, 0, 8, rank, 2)
    for _ in islice(stream.forever(), num_epochs * stream.steps_per_epoch):
        pass
    Store.parts = parts  # type: ignore[method-assign]
    return fetched


@pytest.mark.s3
def test_two_ranks_with_a_small_cache_fetch_each_shard_about_once_an_epoch(
    s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    url, image, num_shards, num_epochs = s3_server.new_url(), jpegs(1)[0], 24, 4
    manifest = write_shards(url, *([[image] * 32] * num_shards))
    budget = manifest.num_bytes // 2
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        arguments = [(url, str(tmp_path), budget, rank, num_epochs) for rank in range(2)]
        fetched = sum(pool.starmap(stream_epochs, arguments), Counter())
    assert len(fetched) == num_shards
    # Half of the shards of an epoch are still there from the one before, less what is in use at the time.
    assert sum(fetched.values()) <= 0.85 * num_shards * num_epochs
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) <= budget
