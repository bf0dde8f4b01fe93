"""What the executors may cost beside their pixels: the plan, and memory over a long run."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.augment import EXECUTORS, BadImages, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.plan import ViewGroup
from support.photographs import batches
from support.shards import HEIGHT, WIDTH, jpegs

CPU = torch.device("cpu")
# Half an hour at 200 images/s in batches of 64. What leaks, leaks by the batch; so here they are small.
BATCHES_OF_HALF_AN_HOUR = 1800 * 200 // 64


def test_the_plan_costs_less_than_three_hundredths_of_the_fastest_executor(imagenet_sample: Path) -> None:
    images, plan = next(batches(imagenet_sample, 64, batch_size=64))
    planner, size = MultiCrop(MultiCropConfig(), seed=0), np.full(64, 400)
    executor = build_executor("cpu", 2, CPU)
    executor(images, plan)
    # Processor time, so that other processes on the machine do not count.
    planning, rendering = [], []
    for epoch in range(3):
        begin = time.process_time()
        planner(epoch, np.arange(64), size, size)
        middle = time.process_time()
        executor(images, plan)
        planning.append(middle - begin)
        rendering.append(time.process_time() - middle)
    executor.close()
    assert min(planning) < 0.03 * min(rendering), (planning, rendering)


@pytest.mark.parametrize(
    "num_batches", [700, pytest.param(BATCHES_OF_HALF_AN_HOUR, marks=[pytest.mark.slow, pytest.mark.acceptance])]
)
@pytest.mark.parametrize("name", EXECUTORS)
def test_half_an_hour_of_batches_leaks_nothing(name: str, num_batches: int) -> None:
    views = (ViewGroup(size=24, count=1, area=(0.4, 1.0), blur=0.5), ViewGroup(size=8, count=1, area=(0.1, 0.4)))
    planner = MultiCrop(MultiCropConfig(views=views), seed=0)
    images = jpegs(2)
    executor = build_executor(name, 2, CPU)
    resident = []
    for step in range(num_batches):
        plan = planner(step, np.arange(2), np.full(2, HEIGHT), np.full(2, WIDTH))
        executor(images, plan)
        if step % 1000 == 500:  # a broken image now and then, as in a run
            with pytest.raises(BadImages):
                executor([images[0], b"broken"], plan)
        if step % (num_batches // 12) == num_batches // 12 - 1:
            resident.append(_resident_bytes())
    executor.close()
    first, last = np.median(resident[2:5]), np.median(resident[-3:])
    assert last - first < 4e6, [round(value / 1e6, 1) for value in resident]


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
