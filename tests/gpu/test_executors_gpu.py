"""DALI on a GPU: the promises that the CPU executors keep, with mixed decode."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.augment import (
    BadImages,
    CenterCrop,
    CenterCropConfig,
    Executor,
    Output,
    build_executor,
    normalised,
)
from pipeline.augment.executor import OUTPUT_TYPES
from support.photographs import assert_near, batches, compare, encoded, two_steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = build_executor("dali", 2, torch.device("cuda", 0))
    yield executor
    executor.close()


def test_photographs_look_the_same_on_the_gpu(executor: Executor, imagenet_sample: Path) -> None:
    parity = compare({"dali": executor}, batches(imagenet_sample, num_images=600))["dali"]
    assert parity.view_means().shape == (10, 600)
    assert_near(parity)


def test_the_evaluation_view_is_that_of_two_steps(imagenet_sample: Path) -> None:
    executor = build_executor("dali", 2, torch.device("cuda", 0), "uint8")
    differences = []
    for images in encoded(imagenet_sample, num_images=600):
        opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        heights, widths = np.array([(image.height, image.width) for image in opened]).T
        (views,) = executor(images, CenterCrop(CenterCropConfig())(0, np.arange(len(images)), heights, widths))
        expected = torch.stack([two_steps(image) for image in opened])
        differences += (views[0].cpu().double() - expected.double()).abs().flatten(1).mean(dim=1).tolist()
    executor.close()
    assert len(differences) == 600 and np.mean(differences) < 1, np.mean(differences)


@pytest.mark.parametrize("output", ["float16", "uint8"])
def test_every_output_type_is_the_same_views(executor: Executor, imagenet_sample: Path, output: Output) -> None:
    images, plan = next(batches(imagenet_sample, 8, batch_size=8))
    smaller = build_executor("dali", 2, torch.device("cuda", 0), output)
    for group, expected in zip(smaller(images, plan), executor(images, plan), strict=True):
        assert group.dtype == OUTPUT_TYPES[output]
        torch.testing.assert_close(normalised(group), expected, rtol=0, atol=2e-3)
    smaller.close()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_view_does_not_depend_on_its_batch(executor: Executor, imagenet_sample: Path, batch_size: int) -> None:
    photographs = list(batches(imagenet_sample, 14, batch_size=14))
    ((images, plan),) = photographs
    together = executor(images, plan)
    for first, (few, their_plan) in enumerate(batches(imagenet_sample, 14, batch_size)):
        place = slice(first * batch_size, first * batch_size + len(few))
        for group, expected in zip(executor(few, their_plan), together, strict=True):
            torch.testing.assert_close(group, expected[:, place], rtol=0, atol=0)


def test_views_that_are_kept_are_not_written_again(executor: Executor, imagenet_sample: Path) -> None:
    # More batches than are held for the streams: DALI has had its memory back for the first of them.
    photographs = list(batches(imagenet_sample, 48, batch_size=8))
    kept = [[group.clone() for group in executor(*batch)] for batch in photographs]
    unread = [executor(*batch) for batch in photographs]
    for groups, others in zip(unread, kept, strict=True):
        for group, other in zip(groups, others, strict=True):
            torch.testing.assert_close(group, other, rtol=0, atol=0)


def test_views_are_on_the_gpu_and_repeat(executor: Executor, imagenet_sample: Path) -> None:
    runs = [[executor(*batch) for batch in batches(imagenet_sample, 48, batch_size=8)] for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        for group, again in zip(first, second, strict=True):
            assert group.is_cuda and group.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(group, again, rtol=0, atol=0)


def test_a_broken_file_is_named_and_the_executor_works_on(executor: Executor, imagenet_sample: Path) -> None:
    images, plan = next(batches(imagenet_sample, 8, batch_size=8))
    broken = [*images[:3], images[3][:1000], *images[4:]]
    with pytest.raises(BadImages) as error:
        executor(broken, plan)
    assert error.value.reasons.keys() == {3}
    assert executor(images, plan)[0].isfinite().all()
