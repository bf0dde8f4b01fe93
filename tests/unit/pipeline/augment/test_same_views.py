"""Same sample, same epoch, same views: whatever the batch, the threads, the ranks or a restart, bit by bit."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline.augment import EXECUTORS, MultiCrop, MultiCropConfig
from pipeline.augment.executor import OUTPUT_TYPES, Output
from pipeline.augment.plan import ViewGroup
from pipeline.loader import DataConfig, ViewLoader, open_loader
from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig, open_training_stream
from support.shards import jpegs, write_shards

CPU = torch.device("cpu")
VIEWS = (
    ViewGroup(size=(16, 24), count=2, area=(0.4, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.5)),
    ViewGroup(size=8, count=2, area=(0.1, 0.4), blur=0.5),
)
PLANNER = MultiCrop(MultiCropConfig(views=VIEWS), seed=0)
NUM_IMAGES = 128
Views = dict[int, list[torch.Tensor]]  # by sample id: one [V, 3, H, W] a group


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    images = jpegs(NUM_IMAGES)
    write_shards(folder, images[:70], images[70:])
    return folder


def open_views(
    shards: Path, executor: str, batch: int, threads: int = 1, rank: int = 0, world: int = 1, output: Output = "float32"
) -> ViewLoader:
    stream = StreamConfig(shards=str(shards), order=OrderConfig(lanes=1), num_threads=2)
    config = DataConfig(stream=stream, executor=executor, num_threads=threads, output=output)
    return open_loader(open_training_stream(stream, 0, batch, rank, world), PLANNER, config, CPU)


def by_sample(loader: ViewLoader, steps: int) -> Views:
    return {
        int(sample): [group[:, b].clone() for group in batch.views]
        for batch in islice(loader.forever(), steps)
        for b, sample in enumerate(batch.ids)
    }


def assert_same(found: Views, expected: Views) -> None:
    assert found.keys() <= expected.keys()
    for sample, groups in found.items():
        for group, other in zip(groups, expected[sample], strict=True):
            torch.testing.assert_close(group, other, rtol=0, atol=0)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_of_any_batch_size_thread_count_and_world_and_after_a_resume(many: Path, executor: str) -> None:
    with open_views(many, executor, batch=64) as loader:
        expected = by_sample(loader, NUM_IMAGES // 64)
    assert len(expected) == NUM_IMAGES
    for batch, threads, steps in ((1, 1, 5), (7, 4, 4), (64, 4, 2)):
        with open_views(many, executor, batch, threads) as loader:
            assert_same(by_sample(loader, steps), expected)
    ranks: Views = {}
    for rank in range(2):
        with open_views(many, executor, 32, rank=rank, world=2) as loader:
            half = by_sample(loader, 2)
            assert len(half) == 32 and not half.keys() & ranks.keys()
            ranks |= half
            state = loader.state_dict()
    assert_same(ranks, expected)
    with open_views(many, executor, 32, rank=1, world=2) as loader:
        loader.load_state_dict(state)
        rest = by_sample(loader, 2)
    assert not rest.keys() & ranks.keys()
    assert_same(rest, expected)


@pytest.mark.parametrize("output", ["float16", "uint8"])
def test_of_any_output_type(many: Path, executor: str, output: Output) -> None:
    with open_views(many, executor, 8) as exact, open_views(many, executor, 8, output=output) as smaller:
        expected, found = by_sample(exact, 2), by_sample(smaller, 2)
    for sample, groups in found.items():
        for group, other in zip(groups, expected[sample], strict=True):
            assert group.dtype == torch.float32
            atol = 1e-6 if output == "uint8" else 2e-3  # of half precision at 2.6, the largest value there is
            torch.testing.assert_close(group, other, rtol=0, atol=atol)
    assert set(OUTPUT_TYPES) == {"float32", "float16", "uint8"}
