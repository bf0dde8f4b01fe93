"""The plan draws what torchvision's transforms draw: Kolmogorov-Smirnov tests over 100,000 views."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from pipeline.augment.colour import ColourJitter, colour_maps
from pipeline.augment.crop_plan import CropPlan
from pipeline.augment.plan import MultiCrop, MultiCropConfig, ViewGroup

NUM_DRAWS = 100_000
HEIGHT, WIDTH = 375, 500
# A false alarm once in ten thousand seeds; the seed is fixed.
ALPHA = 1e-4


def draw(config: MultiCropConfig) -> CropPlan:
    """One view of each of many samples."""
    ids = np.arange(NUM_DRAWS)
    return MultiCrop(config, seed=11)(0, ids, np.full(NUM_DRAWS, HEIGHT), np.full(NUM_DRAWS, WIDTH))


def crops(area: tuple[float, float]) -> CropPlan:
    return draw(MultiCropConfig(views=(ViewGroup(size=8, count=1, area=area, blur=1.0, solarize=0.2),)))


@pytest.mark.parametrize("area", [(0.4, 1.0), (0.05, 0.4), (0.08, 1.0)])
def test_windows(area: tuple[float, float]) -> None:
    torch.manual_seed(0)
    image = torch.empty(1, HEIGHT, WIDTH)
    theirs = np.array([RandomResizedCrop.get_params(image, area, (3 / 4, 4 / 3)) for _ in range(NUM_DRAWS // 4)])
    plan = crops(area)
    ours = np.stack([plan.top[0], plan.left[0], plan.height[0], plan.width[0]], axis=1)
    for quantity in (_area, _aspect, _top, _left):
        assert stats.ks_2samp(quantity(ours), quantity(theirs)).pvalue > ALPHA, quantity.__name__


def test_blur_flip_and_solarize() -> None:
    plan = crops((0.4, 1.0))
    assert stats.kstest(plan.sigma[0], stats.uniform(0.1, 1.9).cdf).pvalue > ALPHA
    for events, probability in ((plan.flip, 0.5), (plan.solarize, 0.2), (plan.coloured, 1 - 0.2 * 0.8)):
        assert stats.binomtest(int(events.sum()), NUM_DRAWS, probability).pvalue > ALPHA


@pytest.mark.parametrize(("operation", "strength"), [("brightness", 0.4), ("contrast", 0.4), ("saturation", 0.2)])
def test_factors(operation: str, strength: float) -> None:
    none = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    jitter = ColourJitter(probability=1.0, **{**none, operation: strength})
    view = ViewGroup(size=8, count=1, area=(0.4, 1.0))
    matrix = draw(MultiCropConfig(views=(view,), jitter=jitter, grayscale=0.0)).matrix[0].astype(np.float64)
    # The factor is what the difference of two channels is multiplied with, whichever of the three it is.
    factor = matrix[:, 0, 0] - matrix[:, 1, 0]
    assert stats.kstest(factor, stats.uniform(1 - strength, 2 * strength).cdf).pvalue > ALPHA


def test_hue() -> None:
    none = dict.fromkeys(("brightness", "contrast", "saturation"), 0.0)
    jitter = ColourJitter(probability=1.0, hue=0.1, **none)
    view = ViewGroup(size=8, count=1, area=(0.4, 1.0))
    matrix = draw(MultiCropConfig(views=(view,), jitter=jitter, grayscale=0.0)).matrix[0].astype(np.float64)
    # The one map of the hue, seen from its red entry, which rises and falls with the turn: the quantiles tell it.
    turns = (np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS
    u = np.full((NUM_DRAWS, 5), 0.5)
    u[:, 3] = turns
    everywhere = np.ones(NUM_DRAWS, bool)
    expected = colour_maps(jitter, u, everywhere, ~everywhere)[0].astype(np.float64)
    assert stats.ks_2samp(matrix[:, 0, 2], expected[:, 0, 2]).pvalue > ALPHA


@pytest.mark.parametrize(("jitter", "gray"), [(0.8, 0.2), (0.3, 0.0), (0.0, 0.5)])
def test_probabilities_of_jitter_and_grayscale(jitter: float, gray: float) -> None:
    view = ViewGroup(size=8, count=1, area=(0.4, 1.0))
    plan = draw(MultiCropConfig(views=(view,), jitter=ColourJitter(probability=jitter), grayscale=gray))
    is_gray = (plan.matrix[0, :, 0] == plan.matrix[0, :, 1]).all(axis=-1)
    for events, probability in ((is_gray, gray), (plan.coloured[0], 1 - (1 - jitter) * (1 - gray))):
        assert stats.binomtest(int(events.sum()), NUM_DRAWS, probability).pvalue > ALPHA


def _area(window: NDArray[np.int64]) -> NDArray[np.float64]:
    return window[:, 2] * window[:, 3] / (HEIGHT * WIDTH)


def _aspect(window: NDArray[np.int64]) -> NDArray[np.float64]:
    return window[:, 3] / window[:, 2]


def _top(window: NDArray[np.int64]) -> NDArray[np.float64]:
    return window[:, 0] / np.maximum(HEIGHT - window[:, 2], 1)


def _left(window: NDArray[np.int64]) -> NDArray[np.float64]:
    return window[:, 1] / np.maximum(WIDTH - window[:, 3], 1)


@pytest.mark.parametrize(("height", "width", "aspect"), [(1, 5, (0.1, 0.3)), (5, 1, (4.0, 9.0))])
def test_a_window_has_a_pixel_however_thin_the_image(height: int, width: int, aspect: tuple[float, float]) -> None:
    views = (ViewGroup(size=8, count=2, area=(0.01, 0.02)),)
    plan = MultiCrop(MultiCropConfig(views=views, aspect=aspect), seed=0)(
        0, np.arange(20), np.full(20, height), np.full(20, width)
    )
    assert plan.height.min() >= 1 and plan.width.min() >= 1
