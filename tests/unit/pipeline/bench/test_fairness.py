"""Contestants are timed in turn, so none may work on after its run has ended."""

import contextlib
import time
from pathlib import Path

import pytest
import torch

from pipeline.augment import EXECUTORS, MultiCropConfig, build_planner
from pipeline.bench.contestants import Conditions, build_contestant
from pipeline.order import SequentialOrder
from pipeline.shards.data_sets import open_data_set
from pipeline.stream import SampleStream, StreamConfig
from pipeline.stream.encoded import EncodedBatch


@pytest.fixture
def given(shards: Path) -> tuple[Conditions, list[EncodedBatch]]:
    """What contestants share, and two batches."""
    data_set = open_data_set(str(shards))
    order = SequentialOrder(data_set.manifest.num_samples, 8)
    stream = SampleStream([data_set], order, StreamConfig(shards=str(shards)))
    batches = [batch for batch, _ in zip(stream, range(2), strict=False)]
    recipe = MultiCropConfig()
    planner = build_planner(recipe, seed=0)
    return Conditions(1, torch.device("cpu"), "float32", recipe, planner, stream.neighbour), batches


def test_a_contestant_keeps_no_views(given: tuple[Conditions, list[EncodedBatch]]) -> None:
    conditions, batches = given
    with contextlib.closing(build_contestant("cpu", conditions)) as contestant:
        contestant.run(batches)
        memory = contestant._executor._buffers._arrays  # type: ignore[attr-defined]
    assert len(memory) == 2  # one a size: that of each batch was used again by the next


@pytest.mark.parametrize("name", [*EXECUTORS, "dali-native", "floor-resize"])
def test_nothing_is_made_ahead_in_the_time_of_the_next(name: str, given: tuple[Conditions, list[EncodedBatch]]) -> None:
    conditions, batches = given
    with contextlib.closing(build_contestant(name, conditions)) as contestant:
        contestant.run(batches)
        begin, begin_s = time.process_time(), time.monotonic()
        contestant.run(batches)
        run_s, pause_s = time.process_time() - begin, time.monotonic() - begin_s
        after_s = _processor_time_of_a_pause(pause_s)  # long enough to make two batches
        idle_s = _processor_time_of_a_pause(pause_s)  # of threads that other tests have left
    assert after_s - idle_s < 0.4 * run_s  # one batch made ahead is half of a run


def _processor_time_of_a_pause(seconds: float) -> float:
    begin = time.process_time()
    time.sleep(seconds)
    return time.process_time() - begin
