"""Batches under way at once: the same views in the same order, whatever is broken, and nothing after the last."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.augment import EXECUTORS, BadImages, CropPlan, Executor, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.plan import ViewGroup
from pipeline.loader.rendering import render
from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig, open_training_stream
from support.shards import HEIGHT, WIDTH, jpegs, write_shards

CPU = torch.device("cpu")
VIEWS = (ViewGroup(size=24, count=2, area=(0.4, 1.0), blur=0.5), ViewGroup(size=8, count=2, area=(0.1, 0.4)))
PLANNER = MultiCrop(MultiCropConfig(views=VIEWS), seed=0)


def batch(first: int) -> tuple[list[bytes], CropPlan]:
    return jpegs(4, first), PLANNER(0, np.arange(first, first + 4), np.full(4, HEIGHT), np.full(4, WIDTH))


def with_a_broken_image(first: int) -> tuple[list[bytes], CropPlan]:
    """Its header is whole: DALI learns only while it decodes."""
    images, plan = batch(first)
    return [images[0], images[1][:-400], *images[2:]], plan


def assert_same(views: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for group, other in zip(views, expected, strict=True):
        torch.testing.assert_close(group, other, rtol=0, atol=0)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = build_executor(str(request.param), 2, CPU)
    yield executor
    executor.close()


def test_two_batches_at_once_are_the_batches_one_by_one(executor: Executor) -> None:
    alone = [[group.clone() for group in executor(*batch(first))] for first in (0, 4, 8)]
    first, second = executor.start(*batch(0)), executor.start(*batch(4))
    assert_same(first(), alone[0])
    third = executor.start(*batch(8))
    assert_same(second(), alone[1])
    assert_same(third(), alone[2])


def test_a_broken_batch_does_not_harm_those_beside_it(executor: Executor) -> None:
    alone = [[group.clone() for group in executor(*batch(first))] for first in (0, 8)]
    before, broken, after = (executor.start(*each) for each in (batch(0), with_a_broken_image(4), batch(8)))
    assert_same(before(), alone[0])
    with pytest.raises(BadImages) as error:
        broken()
    assert list(error.value.reasons) == [1]
    assert_same(after(), alone[1])


def test_replacements_are_those_of_batches_one_by_one(executor: Executor, tmp_path: Path) -> None:
    images = jpegs(24)
    write_shards(tmp_path, [*images[:5], images[5][:-400], b"", *images[7:12], b"broken", *images[13:]])
    config = StreamConfig(shards=str(tmp_path), order=OrderConfig(lanes=1), num_threads=1, max_bad_fraction=0.5)
    found = []
    for ahead in (0, executor.batches_ahead):
        executor.batches_ahead = ahead
        stream = open_training_stream(config, 0, 8)
        encoded = [batch for batch, _ in zip(stream.forever(), range(5), strict=False)]
        found.append(
            [
                (taken.step, taken.ids.tolist(), [group.clone() for group in views])
                for views, taken in render(encoded, PLANNER, executor, stream.neighbour)
            ]
        )
    one_by_one, together = found
    assert len(together) == 5
    for (step, ids, views), (expected_step, expected_ids, expected) in zip(together, one_by_one, strict=True):
        assert (step, ids) == (expected_step, expected_ids) and not {5, 6, 12} & set(ids)
        assert_same(views, expected)


def test_closing_ends_what_is_under_way(executor: Executor) -> None:
    executor(*batch(0))
    waiting = [executor.start(*batch(first)) for first in (0, 4)]
    before = num_threads()
    executor.close()
    del waiting
    assert num_threads() < before


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
