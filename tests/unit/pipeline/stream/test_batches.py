"""What a batch is: views that own augmentation may change, keys and data sets of its samples, tensors that move."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.augment import MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.library.in_one_call import view_loader
from pipeline.loader import DataConfig, TransformError, ViewLoader
from pipeline.order import OrderConfig
from pipeline.shards.samples import SampleReader
from pipeline.stream import StreamConfig
from support.shards import jpegs, write_shards

RECIPE = MultiCropConfig(views=(ViewGroup(size=8, count=2, area=(0.4, 1.0)),))


def open_views(shards: Path, **options: Any) -> ViewLoader:
    stream = StreamConfig(shards=str(shards), order=OrderConfig(lanes=2), max_bad_fraction=0.5)
    return view_loader(DataConfig(stream=stream, num_threads=1), 8, recipe=RECIPE, **options)


def test_a_transform_changes_what_is_handed_over(shards: Path) -> None:
    with open_views(shards) as loader:
        (plain,) = next(iter(loader)).views
    with open_views(shards, transform=lambda views: [2 * stack for stack in views]) as loader:
        (doubled,) = next(iter(loader)).views
    torch.testing.assert_close(doubled, 2 * plain)


@pytest.mark.parametrize("result", [None, torch.zeros(1), [None]], ids=["none", "tensor", "list of none"])
def test_a_transform_that_returns_no_views_is_refused(shards: Path, result: Any) -> None:
    with (
        open_views(shards, transform=lambda _views: result) as loader,
        pytest.raises(TransformError, match="must return a list"),
    ):
        next(iter(loader))


def test_batches_know_the_key_and_the_data_set_of_each_sample(shards: Path) -> None:
    with open_views(shards) as loader:
        for batch in loader:
            assert batch.keys == [f"k{i:06d}" for i in batch.ids.tolist()]
            assert batch.data_sets.tolist() == [0] * 8


def test_the_key_is_that_of_the_sample_that_took_the_place_of_a_bad_one(tmp_path: Path) -> None:
    write_shards(tmp_path, [*jpegs(3), b"broken", *jpegs(4, 4)])
    with open_views(tmp_path) as loader:
        batch = next(iter(loader))
    assert sorted(batch.keys) == [f"k{i:06d}" for i in (0, 1, 2, 4, 4, 5, 6, 7)]


def test_keys_are_read_when_they_are_asked_for(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = SampleReader.keys

    def counting(reader: SampleReader, ids: Any) -> Any:
        asked.append(len(ids))
        return read(reader, ids)

    monkeypatch.setattr(SampleReader, "keys", counting)
    with open_views(shards) as loader:
        batches = list(loader)
        assert asked == []
        assert batches[2].keys is batches[2].keys and asked == [8]


def test_a_pickled_batch_keeps_its_keys_and_moves(shards: Path) -> None:
    with open_views(shards) as loader:
        batch = next(iter(loader))
        again = pickle.loads(pickle.dumps(batch))
    assert again.keys == again.to("cpu").keys == batch.keys
    torch.testing.assert_close(again.views, batch.views)


def test_a_batch_moves_as_a_tensor_does(shards: Path) -> None:
    with open_views(shards) as loader:
        batch = next(iter(loader))
        moved = batch.to("meta")
        assert moved.labels.device.type == moved.views[0].device.type == "meta"
        assert moved.ids is batch.ids and moved.keys == batch.keys
