"""The loader: views in step order, bad images replaced, its place remembered, and nothing left running."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import Stateful

from pipeline import telemetry
from pipeline.augment import MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.plan import ViewGroup
from pipeline.loader import DataConfig, ViewBatch, ViewLoader, open_loader
from pipeline.order import OrderConfig, OrderError
from pipeline.shards.interface import CacheError
from pipeline.stream import StreamConfig, open_training_stream
from pipeline.stream.bad_samples import TooManyBadSamples
from support.shards import jpegs, write_shards

CPU = torch.device("cpu")
VIEWS = (ViewGroup(size=16, count=2, area=(0.4, 1.0)), ViewGroup(size=8, count=2, area=(0.1, 0.4), blur=0.5))
PLANNER = MultiCrop(MultiCropConfig(views=VIEWS), seed=0)


def open_views(shards: Path, batch: int = 8, max_bad_fraction: float = 0.4) -> ViewLoader:
    stream = StreamConfig(
        shards=str(shards), order=OrderConfig(lanes=1), num_threads=2, max_bad_fraction=max_bad_fraction
    )
    config = DataConfig(stream=stream, num_threads=2)
    return open_loader(open_training_stream(config.stream, 0, batch), PLANNER, config, CPU)


def take(shards: Path, count: int) -> list[ViewBatch]:
    with open_views(shards) as loader:
        return list(islice(loader.forever(), count))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


def test_loader_and_stream_keep_the_protocol_of_torchdata(shards: Path) -> None:
    config = StreamConfig(shards=str(shards), order=OrderConfig(lanes=1))
    with open_views(shards) as loader:
        for parts in (loader, open_training_stream(config, 0, 8)):
            assert isinstance(parts, Stateful)
            parts.load_state_dict(state_dict=parts.state_dict())


def test_views_arrive_in_step_order(shards: Path) -> None:
    batches = take(shards, 6)
    assert [(batch.epoch, batch.step) for batch in batches] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    for batch in batches:
        assert [tuple(group.shape) for group in batch.views] == [(2, 8, 3, 16, 16), (2, 8, 3, 8, 8)]
        assert batch.labels.dtype == torch.int64 and batch.labels.tolist() == batch.ids.tolist()
        assert batch.num_encoded_bytes == sum(len(jpegs(1, int(i))[0]) for i in batch.ids)


def test_the_views_of_a_step_do_not_depend_on_when_it_was_reached(shards: Path) -> None:
    whole = take(shards, 6)
    with open_views(shards) as loader:
        assert next(iter(loader)).ids.tolist() == whole[0].ids.tolist()
        time.sleep(0.05)  # batches 1, 2 and 3 are ready by now, and not consumed
        state = loader.state_dict()
    assert state["position"] == 1
    with open_views(shards) as resumed:
        resumed.load_state_dict(state)
        rest = list(islice(resumed.forever(), 5))
        assert resumed.state_dict()["position"] == 6
    for batch, expected in zip(rest, whole[1:], strict=True):
        assert batch.ids.tolist() == expected.ids.tolist()
        for group, expected_group in zip(batch.views, expected.views, strict=True):
            torch.testing.assert_close(group, expected_group, rtol=0, atol=0)


def test_the_state_of_another_run_is_refused(shards: Path) -> None:
    with open_views(shards, batch=4) as loader, open_views(shards) as other:
        with pytest.raises(OrderError, match="global batch"):
            other.load_state_dict(loader.state_dict())
        assert loader.steps_per_epoch == 9 and loader.num_samples == 37


def test_a_broken_image_is_replaced_by_its_neighbour_and_counted(tmp_path: Path) -> None:
    images = jpegs(12)
    broken = [*images[:4], images[4][:200], b"", *images[6:]]  # 4 and its neighbour
    write_shards(tmp_path / "broken", broken)
    write_shards(tmp_path / "whole", images)
    before = telemetry.LOADER_BAD_SAMPLES._value.get()
    with open_views(tmp_path / "broken", batch=12) as loader:
        replaced = next(iter(loader))
    # Three replacements a batch (4 by 5, that by 6, and 5 by 6); some batches were rendered ahead and not consumed.
    replacements = telemetry.LOADER_BAD_SAMPLES._value.get() - before
    assert replacements > 0 and replacements % 3 == 0
    with open_views(tmp_path / "whole", batch=12) as loader:
        intact = next(iter(loader))
    substitutes = {4: 6, 5: 6}
    assert replaced.ids.tolist() == [substitutes.get(i, i) for i in intact.ids.tolist()]
    six = intact.ids.tolist().index(6)
    for place, sample in enumerate(intact.ids.tolist()):
        source = six if sample in substitutes else place
        for group, expected in zip(replaced.views, intact.views, strict=True):
            torch.testing.assert_close(group[:, place], expected[:, source], rtol=0, atol=0)


def test_too_many_broken_images_stop_the_run(tmp_path: Path) -> None:
    write_shards(tmp_path, [*jpegs(4), *[b"broken"] * 8])
    with open_views(tmp_path, batch=4) as loader, pytest.raises(TooManyBadSamples, match="6 of the 12 images"):
        list(islice(loader.forever(), 10))


def test_a_damaged_shard_stops_the_run_by_name(tmp_path: Path) -> None:
    write_shards(tmp_path, jpegs(6), jpegs(6, 6))
    with open(tmp_path / "tiny-000001.tar", "r+b") as file:
        file.truncate(1024)
    with open_views(tmp_path) as loader, pytest.raises(CacheError, match=r"tiny-000001\.tar .* has 1024 bytes"):
        list(islice(loader.forever(), 10))


def test_a_bug_in_the_background_surfaces(shards: Path) -> None:
    class BrokenExecutor:
        device, batches_ahead = CPU, 0

        def start(self, *_: Any, **__: Any) -> Callable[[], list[torch.Tensor]]:
            raise ZeroDivisionError

        def __call__(self, *_: Any, **__: Any) -> list[torch.Tensor]:
            raise ZeroDivisionError

        def close(self) -> None: ...

    stream = open_training_stream(StreamConfig(shards=str(shards)), 0, 8)
    with ViewLoader(stream, PLANNER, BrokenExecutor(), CPU) as loader, pytest.raises(ZeroDivisionError):
        next(iter(loader))


@pytest.mark.parametrize("consumed", [0, 1, 5])
def test_closing_stops_everything_at_once(shards: Path, consumed: int) -> None:
    loader = open_views(shards)
    list(islice(loader.forever(), consumed))
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < 5  # the fixture above looks for threads


def test_no_more_batches_are_rendered_than_the_queue_holds(shards: Path) -> None:
    stream = open_training_stream(StreamConfig(shards=str(shards)), 0, 8)
    rendered = telemetry.LOADER_AUGMENT_SECONDS._sum  # moves once a batch
    with ViewLoader(stream, PLANNER, build_executor("cpu", 1, CPU), CPU, queue_batches=2) as loader:
        next(iter(loader))
        time.sleep(0.3)
        settled = rendered.get()
        time.sleep(0.2)
        assert rendered.get() == settled and stream.position <= 1 + 2 + 1


def test_the_metrics_move(shards: Path) -> None:
    counters = (telemetry.LOADER_SAMPLES, telemetry.LOADER_BYTES)
    before = [counter._value.get() for counter in counters]
    waits = telemetry.LOADER_WAIT_SECONDS._sum.get()
    batches = take(shards, 3)
    samples, num_bytes = (counter._value.get() - b for counter, b in zip(counters, before, strict=True))
    assert (samples, num_bytes) == (24, sum(batch.num_encoded_bytes for batch in batches))
    assert telemetry.LOADER_WAIT_SECONDS._sum.get() > waits
