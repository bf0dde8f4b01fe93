"""Several data sets as one stream: the right bytes, views that never repeat, limits and errors of each by name."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.shards.verified
from pipeline import config
from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.config import ConfigError
from pipeline.format.manifest import MANIFEST_NAME, ManifestError
from pipeline.loader import DataConfig, open_loader
from pipeline.order import OrderConfig, OrderError
from pipeline.shards.cache import CacheConfig
from pipeline.shards.data_sets import JoinedDataSets, open_data_set, read_manifest
from pipeline.store import Store, StoreError
from pipeline.stream import SampleStream, Source, StreamConfig, open_training_stream
from pipeline.stream.bad_samples import TooManyBadSamples
from support.shards import jpegs, write_shards

NUM_FIRST, NUM_SECOND = 37, 12


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images in shards of 5 and 7."""
    folder = tmp_path_factory.mktemp("second")
    images = jpegs(NUM_SECOND, 100)
    write_shards(folder, images[:5], images[5:])
    return folder


def settings(*urls: Path | str, weights: tuple[float, ...] = (1, 3), **changes: Any) -> StreamConfig:
    shards = [Source(url=str(url), weight=weight) for url, weight in zip(urls, weights, strict=True)]
    order = OrderConfig(lanes=2, block_shards=2)
    return StreamConfig(shards=tuple(shards), order=order, shard_look_ahead_bytes=10_000, num_threads=2, **changes)


def take(stream: SampleStream, count: int) -> list[tuple[list[int], list[int]]]:
    return [(batch.ids.tolist(), batch.passes.tolist()) for batch in islice(stream.forever(), count)]


@pytest.fixture(params=["local", "remote"])
def both(request: pytest.FixtureRequest, shards: Path, second: Path, tmp_path: Path) -> StreamConfig:
    """Data sets of equally named shards, of which the second is small and has three quarters of every step."""
    if request.param == "local":
        return settings(shards, second)
    images, remote = jpegs(NUM_FIRST), f"memory://{tmp_path.name}"
    write_shards(f"{remote}/a", images[:9], images[9:10], images[10:22], images[22:30], images[30:])
    images = jpegs(NUM_SECOND, 100)
    write_shards(f"{remote}/b", images[:5], images[5:])
    return settings(f"{remote}/a", f"{remote}/b", cache=None)


def test_samples_and_shards_count_through_the_data_sets(shards: Path, second: Path) -> None:
    joined = JoinedDataSets([open_data_set(str(shards)), open_data_set(str(second))], None)
    places = {0: 0, 8: 0, 9: 1, 10: 2, 21: 2, 22: 3, 36: 4, 37: 5, 41: 5, 42: 6, 48: 6}
    assert joined.shard_of(list(places)).tolist() == list(places.values())
    assert joined.part_of([0, 36, 37, 48]).tolist() == [0, 0, 1, 1]
    assert [joined.next_of(sample) for sample in (0, 36, 37, 48)] == [1, 0, 38, 37]
    assert joined.name_of(38) == "image 1 of shard tiny-000000" and joined.url_of(42) == f"{second}/tiny-000001.tar"


def test_a_stream_is_stored_if_all_of_it_is_and_full_if_any_of_it_is(shards: Path, tmp_path: Path) -> None:
    remote = f"memory://{tmp_path.name}"
    write_shards(remote, jpegs(2))
    local, far = open_data_set(str(shards)), open_data_set(remote)
    assert JoinedDataSets([local, local], None).is_stored
    assert not JoinedDataSets([local, far], None).is_stored
    cached = JoinedDataSets([local, far], CacheConfig(folder=str(tmp_path), max_bytes=1))
    assert cached.is_stored and not cached.is_full
    cached.pin(cached.num_shards - 1)
    assert cached.is_full


def test_a_batch_holds_the_bytes_and_labels_of_its_samples(both: StreamConfig) -> None:
    images = jpegs(NUM_FIRST) + jpegs(NUM_SECOND, 100)
    stream = open_training_stream(both, seed=3, global_batch=8)
    assert stream.num_samples == 49 and stream.steps_per_epoch == 6
    for batch in islice(stream.forever(), 10):
        assert batch.images == [images[i] for i in batch.ids]
        assert batch.labels.tolist() == [i if i < NUM_FIRST else i - NUM_FIRST for i in batch.ids]
        assert int((batch.ids >= NUM_FIRST).sum()) == 6
        assert batch.data_sets.tolist() == [int(i >= NUM_FIRST) for i in batch.ids]
        assert batch.keys == [f"k{label:06d}" for label in batch.labels]


@pytest.mark.parametrize("position", [0, 1, 5, 6, 17])
def test_a_mixture_resumes_on_any_number_of_ranks(both: StreamConfig, position: int) -> None:
    whole = take(open_training_stream(both, 3, 8), 20)
    state = open_training_stream(both, 3, 8, rank=0, world_size=8).state_dict(position)
    ranks = []
    for rank in range(2):
        stream = open_training_stream(both, 3, 8, rank, world_size=2)
        stream.load_state_dict(state)
        ranks.append(take(stream, 3))
    for (ids, passes), of_0, of_1 in zip(whole[position:], *ranks, strict=False):
        assert of_0[0] + of_1[0] == ids and of_0[1] + of_1[1] == passes


def test_the_state_names_the_data_sets_and_their_shares(shards: Path, second: Path) -> None:
    mixture = open_training_stream(settings(shards, second), 0, 8)
    assert mixture.state_dict()["shares"] == ["1/4", "3/4"] and mixture.state_dict()["manifest_digest"].count("+") == 1
    others = {
        "shares was": settings(shards, second, weights=(1, 2)),
        "manifest digest was": settings(second, shards, weights=(1, 3)),
        "manifest digest was .*, so": StreamConfig(shards=str(shards), order=OrderConfig(lanes=2, block_shards=2)),
    }
    for sentence, other in others.items():
        with pytest.raises(OrderError, match=f"cannot resume: {sentence}"):
            open_training_stream(other, 0, 8).load_state_dict(mixture.state_dict())
        with pytest.raises(OrderError, match="cannot resume: "):
            mixture.load_state_dict(open_training_stream(other, 0, 8).state_dict())


def test_an_image_never_has_the_same_views_twice(shards: Path, second: Path) -> None:
    views = (ViewGroup(size=8, count=1, area=(0.4, 1.0)),)
    planner = MultiCrop(MultiCropConfig(views=views), seed=0)
    data = DataConfig(stream=settings(shards, second), num_threads=2)
    found: dict[int, list[bytes]] = {}
    with open_loader(open_training_stream(data.stream, 0, 8), planner, data, torch.device("cpu")) as loader:
        for batch in loader:
            for b, sample in enumerate(batch.ids.tolist()):
                found.setdefault(sample, []).append(batch.views[0][0, b].numpy().tobytes())
    assert max(map(len, found.values())) >= 3  # all in the first epoch of the mixture
    for seen in found.values():
        assert len(set(seen)) == len(seen)


def test_the_neighbour_is_of_the_same_data_set(shards: Path, second: Path) -> None:
    stream = open_training_stream(settings(shards, second, max_bad_fraction=1), 0, 8)
    for bad, neighbour in [(35, 36), (36, 0), (37, 38), (48, 37)]:
        assert stream.neighbour(bad, "cut").ids.tolist() == [neighbour]


def test_each_data_set_has_a_budget_of_its_own(shards: Path, second: Path) -> None:
    stream = open_training_stream(settings(shards, second, max_bad_fraction=0.1), 0, 8)
    for bad in (0, 1, 2, 3, 37, 38):  # 3.7 and 1.2, rounded up
        stream.neighbour(bad, "cut")
    with pytest.raises(TooManyBadSamples, match=f"3 of the 12 images of {second} .* image 1 of shard tiny-000001"):
        stream.neighbour(43, "cut")


def test_a_data_set_that_is_not_there_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"{tmp_path} holds no manifest\.json"):
        open_training_stream(settings(shards, tmp_path), 0, 8)


@pytest.mark.parametrize("max_bytes", [1, 2, 10**9])
def test_every_data_set_of_a_mixture_has_a_cache_however_small(tmp_path: Path, max_bytes: int) -> None:
    remote = f"memory://{tmp_path.name}"
    for name in ("a", "b"):
        write_shards(f"{remote}/{name}", jpegs(8), jpegs(8))
    cache = CacheConfig(folder=str(tmp_path), max_bytes=max_bytes)
    joined = JoinedDataSets([open_data_set(f"{remote}/{name}") for name in ("a", "b")], cache)
    for shard in range(joined.num_shards):
        joined.shard(shard)
    assert joined.is_stored and {path.parent.parent for path in tmp_path.rglob("*.tar")} == {tmp_path}
    assert not JoinedDataSets(joined.parts, None).is_stored


def load_shards(value: str) -> StreamConfig:
    return config.load(StreamConfig, [], [f"shards={value}"])


def test_a_mixture_is_written_as_a_list(tmp_path: Path) -> None:
    loaded = load_shards("[{url: a, weight: 3}, {url: b, weight: 0.5}]")
    assert [(source.url, source.weight) for source in loaded.sources] == [("a", 3.0), ("b", 0.5)]
    config.save(loaded, tmp_path / "saved.yaml")
    assert config.load(StreamConfig, [tmp_path / "saved.yaml"]) == loaded
    assert load_shards("a").sources == (Source(url="a", weight=1),)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[{url: a}]", r"shards.*weight' is required"),
        ("[{url: a, weight: 0}]", r"shards.*weight': Input should be greater than 0"),
        ("[{url: a, weight: .inf}]", r"shards.*weight': Input should be less than or equal to 1000000 \(got inf\)"),
        ("[{url: a, weight: .nan}]", r"shards.*weight': Input should be .* \(got nan\)"),
        ("[{url: a, weight: 1e308}]", r"shards.*weight': Input should be less than"),
        ("[{url: a, weight: 1, wieght: 2}]", "unknown config key 'shards.*wieght'"),
        ("[]", "shards.*name a data set"),
        ("7", "shards.* valid tuple"),
    ],
)
def test_a_mistake_in_it_is_one_sentence(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_shards(value)
    assert ";" not in str(caught.value).replace("; did you mean", "") and "\n" not in str(caught.value)


def test_manifest_is_missing_or_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        read_manifest(store)
    monkeypatch.setattr(pipeline.shards.verified, "_PAUSES_S", (0,))
    store.put(MANIFEST_NAME, b"{}")
    with pytest.raises(ManifestError, match=rf"manifest {tmp_path}/manifest\.json"):
        read_manifest(store)
