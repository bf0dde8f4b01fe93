"""The views of evaluation against the transforms of torchvision that published figures were measured with."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

from pipeline.augment import EXECUTORS, RECIPES, CenterCrop, CenterCropConfig, CropPlan, build_executor, build_planner
from support.photographs import encoded, two_steps
from support.shards import encode, picture

CPU = torch.device("cpu")
# Of the mean difference of a view, in 1/255, over all views: the reference is PIL itself, but for rounding.
LIMITS = {"reference": 0.1, "cpu": 0.1, "dali": 1.0}
PHOTOGRAPHS = [24, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.acceptance])]


def plan_for(config: CenterCropConfig, sizes: list[tuple[int, int]]) -> CropPlan:
    """The plan of images of these (height, width)."""
    return CenterCrop(config)(0, np.arange(len(sizes)), *np.array(sizes).T)


def differences(name: str, images: list[bytes], plan: CropPlan, expected: list[torch.Tensor]) -> Iterator[float]:
    """Mean difference of the view of each image, in 1/255."""
    executor = build_executor(name, 2, CPU, "uint8")
    (views,) = executor(images, plan)
    executor.close()
    assert len(views[0]) == len(expected)
    for view, other in zip(views[0], expected, strict=True):
        yield float((view.double() - other.double()).abs().mean())


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("num_images", PHOTOGRAPHS)
def test_photographs_are_resized_and_cropped_as_in_two_steps(imagenet_sample: Path, name: str, num_images: int) -> None:
    config = CenterCropConfig()
    found: list[float] = []
    for images in encoded(imagenet_sample, num_images):
        opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        plan = plan_for(config, [(image.height, image.width) for image in opened])
        found += differences(name, images, plan, [two_steps(image, config.size, config.resize) for image in opened])
    assert len(found) == num_images
    assert np.mean(found) < LIMITS[name] and max(found) < 1, (np.mean(found), max(found))


SIZES = [(256, 256), (100, 130), (7, 300), (300, 7), (1, 1), (1, 9), (9, 1), (255, 257), (333, 334), (640, 480)]


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 224), (96, 110), (32, 37), (31, 32), (64, 256)])
@pytest.mark.parametrize("name", EXECUTORS)
def test_images_and_crops_of_any_size_are_resized_and_cropped_as_in_two_steps(
    name: str, size: int, resize: int
) -> None:
    pictures = [picture(i, *image) for i, image in enumerate(SIZES)]
    images = [encode(image, "PNG") for image in pictures]
    plan = plan_for(CenterCropConfig(size=size, resize=resize), SIZES)
    found = list(differences(name, images, plan, [two_steps(image, size, resize) for image in pictures]))
    assert np.mean(found) < LIMITS[name] and max(found) < 1, found


@pytest.mark.parametrize(
    ("image", "window"),
    [
        ((256, 256), (16, 16, 224, 224)),
        # 341 x 256, of which rows 58 (of 58.5, to even) and columns 16 are the first.
        ((500, 375), (58 * 500 / 341, 16 * 375 / 256, 224 * 500 / 341, 224 * 375 / 256)),
        # 256 x 1026 of 1026.4: the crop begins at column 401.
        ((100, 401), (16 * 100 / 256, 401 * 401 / 1026, 224 * 100 / 256, 224 * 401 / 1026)),
    ],
)
def test_the_window_has_fractional_edges(image: tuple[int, int], window: tuple[float, ...]) -> None:
    plan = plan_for(CenterCropConfig(size=224, resize=256), [image])
    found = (plan.top.item(), plan.left.item(), plan.height.item(), plan.width.item())
    assert found == pytest.approx(window, abs=1e-9)
    assert not (plan.flip | plan.coloured | (plan.sigma > 0) | plan.solarize).any()


@pytest.mark.parametrize("size", [(48, 48), (48, 64), (65, 48)])
def test_without_a_margin_the_view_is_as_high_or_as_wide_as_the_image(size: tuple[int, int]) -> None:
    plan = plan_for(CenterCropConfig(size=24, resize=24), [size])
    assert min(plan.height.item(), plan.width.item()) == 48
    assert min(plan.top.item(), plan.left.item()) == 0


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_image_of_the_size_asked_for_is_its_own_view(name: str) -> None:
    """So are the digits and CIFAR images of docs/experiments.md."""
    image = picture(0, 32, 32)
    plan = plan_for(CenterCropConfig(size=32, resize=32), [(32, 32)])
    assert list(differences(name, [encode(image, "PNG")], plan, [F.pil_to_tensor(image)])) == [0.0]


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("num_images", PHOTOGRAPHS)
def test_a_probe_trains_on_the_views_of_torchvision_s_defaults(
    imagenet_sample: Path, name: str, num_images: int
) -> None:
    """RandomResizedCrop(224) and a flip, on the windows that the plan has drawn."""
    planner, first = build_planner(RECIPES["linear"], seed=3), 0
    found: list[float] = []
    for images in encoded(imagenet_sample, num_images):
        opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        ids, sizes = np.arange(first, first + len(images)), np.array([(image.height, image.width) for image in opened])
        plan = planner(0, ids, *sizes.T)
        expected = []
        for b, image in enumerate(opened):
            window = (int(edge[0, b]) for edge in (plan.top, plan.left, plan.height, plan.width))
            view = F.resized_crop(image, *window, [224, 224])  # bilinear
            expected.append(F.pil_to_tensor(F.hflip(view) if plan.flip[0, b] else view))
        found += differences(name, images, plan, expected)
        first += len(images)
        assert not (plan.coloured | (plan.sigma > 0) | plan.solarize).any()
    assert np.mean(found) < (0.1 if name == "cpu" else LIMITS[name]), np.mean(found)
    assert name != "reference" or max(found) == 0


def test_a_change_of_the_filter_is_not_missed_by_an_executor_in_use() -> None:
    images = [encode(picture(0))]
    recipe = RECIPES["linear"]
    bilinear, bicubic = (
        build_planner(recipe.model_copy(update={"interpolation": name}), seed=0)(
            0, np.array([1]), np.array([48]), np.array([64])
        )
        for name in ("bilinear", "bicubic")
    )
    for name in EXECUTORS:
        executor = build_executor(name, 1, CPU)
        first, second, again = (executor(images, plan)[0].clone() for plan in (bilinear, bicubic, bilinear))
        executor.close()
        assert torch.equal(first, again) and not torch.equal(first, second)
