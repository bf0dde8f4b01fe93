"""The executor on the CPU: its memory, its kernels, its output types."""

import numpy as np
import pytest
import torch

from pipeline.augment import BadImages, CropPlan, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.blur import blur_kernels
from pipeline.augment.cpu import _trimmed
from pipeline.augment.plan import ViewGroup
from support.shards import HEIGHT, WIDTH, encode, jpegs, picture

CPU = torch.device("cpu")


def plan_of(*views: ViewGroup, heights: int = HEIGHT, widths: int = WIDTH) -> CropPlan:
    """Two samples."""
    planner = MultiCrop(MultiCropConfig(views=views), seed=0)
    return planner(0, np.arange(2), np.full(2, heights), np.full(2, widths))


def test_plans_of_other_sizes_may_take_turns() -> None:
    large = plan_of(ViewGroup(size=40, count=2, area=(0.4, 1.0)), ViewGroup(size=24, count=1, area=(0.1, 0.4)))
    small = plan_of(ViewGroup(size=16, count=3, area=(0.4, 1.0)))
    images, executor = jpegs(2), build_executor("cpu", 1, CPU)
    first = [[group.clone() for group in executor(images, plan)] for plan in (large, small)]
    again = [[group.clone() for group in executor(images, plan)] for plan in (large, small)]
    for groups, others in zip(first, again, strict=True):
        assert all(torch.equal(group, other) for group, other in zip(groups, others, strict=True))
    assert [group.shape[-1] for group in first[1]] == [16]


def test_a_trimmed_blur_keeps_the_brightness() -> None:
    kernels = blur_kernels(np.array([[0.3, 1.0, 1.9]], np.float32))
    trimmed = _trimmed(kernels)
    assert np.allclose(trimmed.sum(axis=-1), 1, atol=1e-6)
    assert (trimmed > 0).sum() < (kernels > 0).sum()


@pytest.mark.parametrize(("output", "tolerance"), [("float16", 2e-3), ("uint8", 1.5e-2)])
def test_every_output_type_is_the_same_picture(output: str, tolerance: float) -> None:
    plan, images = plan_of(ViewGroup(size=32, count=2, area=(0.4, 1.0))), jpegs(2)
    (full,) = build_executor("cpu", 1, CPU)(images, plan)
    (views,) = build_executor("cpu", 1, CPU, output)(images, plan)  # type: ignore[arg-type]
    if output == "uint8":
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        views = (views / 255 - mean) / std
    torch.testing.assert_close(views.float(), full, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH // 4), (HEIGHT // 4, WIDTH)])
def test_an_image_smaller_than_its_index_says_is_named_on_either_side(size: tuple[int, int]) -> None:
    whole = plan_of(ViewGroup(size=32, count=2, area=(0.9, 1.0)))
    images = [jpegs(1)[0], encode(picture(1, *size))]
    with pytest.raises(BadImages) as caught:
        build_executor("cpu", 1, CPU)(images, whole)
    assert list(caught.value.reasons) == [1] and "fewer than the index of its shard says" in caught.value.reasons[1]
