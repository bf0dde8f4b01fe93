"""The stream: the right bytes for each step, the same after every resume, and refused where they would differ."""

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import ConfigError, load, save
from pipeline.order import OrderConfig, OrderError, SequentialOrder
from pipeline.shards.cache import CacheConfig
from pipeline.shards.data_sets import open_data_set
from pipeline.store import Store, StoreError
from pipeline.stream import SampleStream, StreamConfig, open_training_stream
from pipeline.stream.bad_samples import TooManyBadSamples
from pipeline.stream.encoded import EncodedBatch
from pipeline.telemetry import LOADER_BAD_SAMPLES
from support.shards import HEIGHT, WIDTH, jpegs, write_shards

ORDER = OrderConfig(lanes=2, block_shards=2)


def open_stream(
    shards: Path | str, seed: int = 3, batch: int = 8, rank: int = 0, world_size: int = 1, max_bad_fraction: float = 0.1
) -> SampleStream:
    config = StreamConfig(
        shards=str(shards), order=ORDER, shard_look_ahead_bytes=10_000, num_threads=2, max_bad_fraction=max_bad_fraction
    )
    return open_training_stream(config, seed, batch, rank, world_size)


def ids_of(batches: list[EncodedBatch]) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]


def test_a_batch_holds_the_bytes_and_the_rows_of_its_samples(shards: Path) -> None:
    images = jpegs(37)
    stream = open_stream(shards)
    assert stream.steps_per_epoch == 37 // 8
    for batch in islice(stream.forever(), 6):
        assert batch.images == [images[i] for i in batch.ids]
        np.testing.assert_array_equal(batch.labels, batch.ids)  # so the test's shards are labelled
        assert set(batch.heights) == {HEIGHT} and set(batch.widths) == {WIDTH}


def test_steps_and_epochs_go_on_for_ever(shards: Path) -> None:
    batches = list(islice(open_stream(shards).forever(), 9))
    assert [(b.epoch, b.step) for b in batches] == [(e, s) for e in range(3) for s in range(4)][:9]
    assert ids_of(batches[:4]) != ids_of(batches[4:8])


@pytest.mark.parametrize("position", [0, 1, 3, 4, 7])
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(shards: Path, position: int) -> None:
    whole = list(islice(open_stream(shards).forever(), 10))
    first, second = open_stream(shards), open_stream(shards)
    assert ids_of(list(islice(first.forever(), position))) == ids_of(whole[:position])
    second.load_state_dict(first.state_dict())
    rest = list(islice(second.forever(), 10 - position))
    assert ids_of(rest) == ids_of(whole[position:])
    assert [(b.epoch, b.step) for b in rest] == [(b.epoch, b.step) for b in whole[position:]]


def test_the_state_is_a_few_integers_and_counts_what_was_handed_over(shards: Path) -> None:
    stream = open_stream(shards)
    batches = stream.forever()
    for position in range(1, 4):
        next(batches)
        assert stream.state_dict()["position"] == position
    digest = open_data_set(str(shards)).manifest.digest
    assert stream.state_dict() == {
        "manifest_digest": digest, "global_batch": 8, "seed": 3, "lanes": 2, "block_shards": 2, "position": 3,
    }  # fmt: skip


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_ranks_together_read_the_batch_in_order(shards: Path, world_size: int) -> None:
    whole = list(islice(open_stream(shards).forever(), 5))
    ranks = [list(islice(open_stream(shards, rank=r, world_size=world_size).forever(), 5)) for r in range(world_size)]
    for step, batch in enumerate(whole):
        assert np.concatenate([rank[step].ids for rank in ranks]).tolist() == batch.ids.tolist()


def test_a_run_may_resume_on_another_number_of_ranks(shards: Path) -> None:
    whole, state = list(islice(open_stream(shards).forever(), 5)), open_stream(shards, world_size=4).state_dict(3)
    for rank in range(2):
        stream = open_stream(shards, rank=rank, world_size=2)
        stream.load_state_dict(state)
        assert next(iter(stream)).ids.tolist() == whole[3].ids[4 * rank : 4 * rank + 4].tolist()


@pytest.mark.parametrize(
    ("name", "was", "now"), [("seed", 4, 3), ("global_batch", 4, 8), ("lanes", 4, 2), ("block_shards", 1, 2)]
)
def test_the_state_of_another_order_is_refused(shards: Path, name: str, was: int, now: int) -> None:
    stream = open_stream(shards)
    sentence = f"cannot resume: {name.replace('_', ' ')} was {was} in the checkpoint and is {now} now"
    with pytest.raises(OrderError, match=sentence):
        stream.load_state_dict({**stream.state_dict(), name: was})
    assert stream.position == 0


def test_the_state_of_another_data_set_is_refused(shards: Path, tmp_path: Path) -> None:
    write_shards(tmp_path, jpegs(37))
    with pytest.raises(OrderError, match="cannot resume: manifest digest was"):
        open_stream(tmp_path).load_state_dict(open_stream(shards).state_dict())


def test_a_sequential_stream_visits_every_sample(shards: Path) -> None:
    data_set = open_data_set(str(shards))
    stream = SampleStream([data_set], SequentialOrder(37, 10), StreamConfig(shards=str(shards)))
    batches = list(stream)
    assert np.concatenate([batch.ids for batch in batches]).tolist() == [*range(37), 36, 36, 36]
    assert np.concatenate([batch.ids[batch.mask] for batch in batches]).tolist() == [*range(37)]
    assert stream.state_dict() == {"manifest_digest": data_set.manifest.digest, "global_batch": 10, "position": 4}


def test_the_neighbour_is_the_next_sample_and_is_counted(shards: Path) -> None:
    stream, before = open_stream(shards), LOADER_BAD_SAMPLES._value.get()
    for bad, neighbour in [(3, 4), (8, 9), (9, 10), (36, 0)]:  # 8 ends a shard, 9 is one by itself
        substitute = stream.neighbour(bad, "cut")
        assert substitute.ids.tolist() == [neighbour] and substitute.images == jpegs(1, neighbour)
    assert LOADER_BAD_SAMPLES._value.get() - before == 4


def test_the_budget_is_for_different_images(shards: Path) -> None:
    stream = open_stream(shards, max_bad_fraction=0.03)  # of 37: 1.11, rounded up
    for bad in (5, 10, 5, 5, 10):  # the same two, epoch after epoch
        stream.neighbour(bad, "cut")
    sentence = r"3 of the 37 images of .* the last was image 2 of shard tiny-000002; .*max_bad_fraction from 0\.03"
    with pytest.raises(TooManyBadSamples, match=sentence):
        stream.neighbour(12, "cut")


def test_none_is_forgiven_where_none_may_be_bad_and_one_where_any_may(shards: Path) -> None:
    with pytest.raises(TooManyBadSamples, match="1 of the 37 images"):
        open_stream(shards, max_bad_fraction=0).neighbour(5, "cut")
    assert open_stream(shards, max_bad_fraction=1e-6).neighbour(5, "cut").ids.tolist() == [6]


def test_a_search_for_a_good_sample_ends_even_if_there_is_none(shards: Path) -> None:
    stream, bad = open_stream(shards, max_bad_fraction=1), 0
    with pytest.raises(TooManyBadSamples, match="37 of the 37 images"):
        for _ in range(38):
            bad = int(stream.neighbour(bad, "cut").ids[0])


def test_a_folder_without_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        open_stream(tmp_path)


@pytest.mark.parametrize("max_bytes", [None, 1, 10**9])  # none, one too small, one large enough
def test_a_remote_store_gives_the_same_stream(shards: Path, tmp_path: Path, max_bytes: int | None) -> None:
    images = jpegs(37)
    remote = f"memory://{tmp_path.name}"
    write_shards(remote, images[:9], images[9:10], images[10:22], images[22:30], images[30:])
    cache = CacheConfig(folder=str(tmp_path / "cache"), max_bytes=max_bytes) if max_bytes else None
    config = StreamConfig(shards=remote, order=ORDER, cache=cache)
    stream = open_training_stream(config, seed=3, global_batch=8)
    assert ids_of(list(islice(stream.forever(), 5))) == ids_of(list(islice(open_stream(shards).forever(), 5)))


def test_the_shards_of_a_cold_start_are_fetched_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, parts = f"memory://{tmp_path.name}", Store.parts
    write_shards(remote, *(jpegs(8, 8 * shard) for shard in range(4)))
    meeting = threading.Barrier(4, timeout=20)  # passes only if four shards are under way at once

    met: list[str] = []

    def meet(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if name.endswith(".tar"):
            meeting.wait()
            met.append(name)
        return parts(store, name, start, stop)

    monkeypatch.setattr(Store, "parts", meet)
    order = OrderConfig(lanes=1, block_shards=4)
    config = StreamConfig(shards=remote, order=order, cache=CacheConfig(folder=str(tmp_path / "cache")), num_threads=4)
    assert len(next(iter(open_training_stream(config, seed=0, global_batch=32))).ids) == 32
    assert len(met) == 4


@pytest.mark.parametrize("written", ["off", "'off'", "null", "false"])
def test_a_cache_that_is_off_stays_off(written: str, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("shards: a\ncache: {folder: /cache, max_bytes: 20GB}\n")
    loaded = load(StreamConfig, [tmp_path / "some.yaml"], [f"cache={written}"])
    assert loaded.cache is None and loaded.replace(num_threads=2).cache is None
    save(loaded, tmp_path / "saved.yaml")
    assert load(StreamConfig, [tmp_path / "saved.yaml"]) == loaded


def test_sizes_are_numbers_of_bytes_or_text(tmp_path: Path) -> None:
    overrides = ["shards=a", "cache.max_bytes=1.5TB", "shard_look_ahead_bytes=4GiB"]
    loaded = load(StreamConfig, [], overrides)
    assert loaded.cache is not None and loaded.cache.max_bytes == 1_500_000_000_000
    assert loaded.shard_look_ahead_bytes == 4 * 2**30
    assert loaded.cache.folder == "~/.cache/esvit-streaming"
    save(loaded, tmp_path / "saved.yaml")
    assert "max_bytes: 1500000000000\n" in (tmp_path / "saved.yaml").read_text()
    assert load(StreamConfig, [tmp_path / "saved.yaml"]) == loaded


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cache=0", "config key 'cache': .*write 'off', or 'folder' and 'max_bytes' below it"),
        ("cache=on", "config key 'cache': .*write 'off', or 'folder' and 'max_bytes' below it"),
        ("cache=/cache", "config key 'cache': .*write 'off', or 'folder' and 'max_bytes' below it"),
        ("cache.max_bytes=0", r"config key 'cache\.max_bytes': Input should be greater than 0"),
        ("cache.max_bytes=-1", r"config key 'cache\.max_bytes': "),
        ("cache.max_bytes=much", r"config key 'cache\.max_bytes': .*could not parse value and unit"),
        ("cache.dir=/cache", r"unknown config key 'cache\.dir'"),
        ("cache_bytes=0", "unknown config key 'cache_bytes'"),
    ],
)
def test_a_mistake_about_the_cache_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(StreamConfig, [], ["shards=a", override])
    assert ";" not in str(caught.value).replace("; did you mean", "")


def test_a_wrong_weight_is_named_by_its_place_in_the_file() -> None:
    with pytest.raises(ConfigError, match=r"config key 'shards\.1\.weight': Input should be greater than 0"):
        load(StreamConfig, [], ["shards=[{url: a, weight: 1}, {url: b, weight: -1}]"])
