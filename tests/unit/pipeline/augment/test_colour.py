"""The colour matrix against torchvision's operations, on colours that stay clear of black and white."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from numpy.typing import NDArray
from PIL import Image

from pipeline.augment.colour import LUMA, ColourJitter, colour_maps

JITTER = ColourJitter(brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
ORDERS = list(itertools.permutations(range(4)))
TORCHVISION = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


@pytest.fixture
def image() -> torch.Tensor:
    """Muted colours [3, H, W] in 0..1."""
    return 0.4 + 0.2 * torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def maps(u: list[float], jitter: bool = True, gray: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return colour_maps(JITTER, np.array(u), np.array(jitter), np.array(gray))


def draw(brightness: float, contrast: float, saturation: float, order: tuple[int, ...]) -> list[float]:
    """The uniform numbers that give these factors, no turn of the hue, and this order."""
    strengths = (JITTER.brightness, JITTER.contrast, JITTER.saturation)
    factors = [(f - (1 - s)) / (2 * s) for f, s in zip((brightness, contrast, saturation), strengths, strict=True)]
    return [*factors, 0.5, (ORDERS.index(order) + 0.5) / len(ORDERS)]


def apply(maps: tuple[NDArray[np.float32], NDArray[np.float32]], image: torch.Tensor) -> torch.Tensor:
    matrix, pivot = (torch.from_numpy(m).double() for m in maps)
    shift = pivot @ image.mean(dim=(1, 2))
    return torch.einsum("cd,dhw->chw", matrix, image) + shift[:, None, None]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join("bcsh"[i] for i in order))
def test_every_order_of_the_operations_equals_torchvision(image: torch.Tensor, order: tuple[int, ...]) -> None:
    factors = (0.9, 1.25, 0.7)
    expected = image
    for operation in order:
        if operation < 3:
            expected = TORCHVISION[operation](expected, factors[operation])
    # torchvision rounds the weights of the luma to 0.2989 0.587 0.114, whose sum is 0.9999.
    torch.testing.assert_close(apply(maps(draw(*factors, order)), image), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("operation", range(3))
@pytest.mark.parametrize("end", [0.0, 0.25, 1.0])
def test_each_operation_alone_equals_torchvision(image: torch.Tensor, operation: int, end: float) -> None:
    u = [0.5] * 5
    u[operation] = end
    strength = (JITTER.brightness, JITTER.contrast, JITTER.saturation)[operation]
    expected = TORCHVISION[operation](image, 1 - strength + 2 * strength * end)
    torch.testing.assert_close(apply(maps(u), image), expected, atol=2e-4, rtol=0)


def test_hue_and_saturation_keep_their_order() -> None:
    def matrix(saturation: float, hue: float, order: tuple[int, ...]) -> NDArray[np.float64]:
        u = [0.5, 0.5, saturation, hue, (ORDERS.index(order) + 0.5) / len(ORDERS)]
        return maps(u)[0].astype(np.float64)

    saturated, turned = matrix(0.1, 0.5, (0, 1, 2, 3)), matrix(0.5, 0.9, (0, 1, 2, 3))
    assert np.abs(turned @ saturated - saturated @ turned).max() > 1e-3
    np.testing.assert_allclose(matrix(0.1, 0.9, (0, 1, 2, 3)), turned @ saturated, atol=1e-6)
    np.testing.assert_allclose(matrix(0.1, 0.9, (0, 1, 3, 2)), saturated @ turned, atol=1e-6)


def test_a_factor_is_never_negative() -> None:
    strong = ColourJitter(brightness=1.5)
    matrix, _ = colour_maps(strong, np.array([0.0, 0.5, 0.5, 0.5, 0.0]), np.array(True), np.array(False))
    np.testing.assert_array_equal(matrix, np.zeros((3, 3)))


def test_contrast_pivots_about_the_mean_luma(image: torch.Tensor) -> None:
    changed = apply(maps(draw(1, 1.3, 1, (0, 1, 2, 3))), image)
    luma = torch.from_numpy(LUMA)
    mean, mean_after = (torch.einsum("c,chw->hw", luma, x).mean() for x in (image, changed))
    torch.testing.assert_close(mean_after, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(changed - mean, 1.3 * (image - mean), atol=1e-6, rtol=0)


@pytest.mark.parametrize("u", [0.0, 0.2, 0.9])
def test_the_hue_leaves_gray_alone(u: float) -> None:
    matrix, pivot = maps([0.5, 0.5, 0.5, u, 0.0])
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert not pivot.any()


def test_the_hue_is_nearer_to_torchvision_on_photographs_than_no_hue(imagenet_sample: Path) -> None:
    files = sorted(imagenet_sample.glob("train/*/*"))[-60:]  # the map was fitted on the first 250
    near, far = [], []
    for i, file in enumerate(files):
        photograph = F.to_tensor(Image.open(file).convert("RGB").resize((48, 48))).double()
        u = (i + 0.5) / len(files)
        expected = F.adjust_hue(photograph, JITTER.hue * (2 * u - 1))
        turned = apply(maps([0.5, 0.5, 0.5, u, 0.0]), photograph).clamp(0, 1)
        near.append((turned - expected).abs().mean())
        far.append((photograph - expected).abs().mean())
    assert torch.stack(near).mean() < 0.7 * torch.stack(far).mean()


def test_the_whole_jitter_is_near_torchvision_s_on_photographs(imagenet_sample: Path) -> None:
    """The figures of docs/decisions/0002-one-colour-matrix.md, on fewer photographs and with room for chance."""
    files = sorted(imagenet_sample.glob("train/*/*"))[-120:]  # the map of the hue was fitted on the first 250
    recipe, rng = ColourJitter(), np.random.default_rng(0)
    differences, moves = [], []
    for file in files:
        photograph = F.to_tensor(Image.open(file).convert("RGB").resize((96, 96)))
        u = rng.random(5)
        expected = torchvision_jitter(recipe, u, photograph)
        ours = apply(colour_maps(recipe, u, np.array(True), np.array(False)), photograph.double()).clamp(0, 1)
        differences.append(float((ours - expected).abs().mean()) * 255)
        moves.append(float((expected - photograph).abs().mean()) * 255)
    mean, (median, most) = np.mean(differences), np.percentile(differences, (50, 95))
    assert mean < 4 and median < 3 and most < 10, (mean, median, most)
    assert mean < 0.2 * np.mean(moves)


def torchvision_jitter(config: ColourJitter, u: NDArray[np.float64], image: torch.Tensor) -> torch.Tensor:
    """torchvision's ColorJitter with the factors and the order that the uniform numbers stand for."""
    strengths = (config.brightness, config.contrast, config.saturation)
    factors = [1 - s + 2 * s * x for s, x in zip(strengths, u, strict=False)]
    factors.append(config.hue * (2 * u[3] - 1))
    for operation in ORDERS[int(u[4] * len(ORDERS))]:
        image = (*TORCHVISION, F.adjust_hue)[operation](image, factors[operation])
    return image


@pytest.mark.parametrize("jitter", [False, True])
def test_grayscale_comes_last(image: torch.Tensor, jitter: bool) -> None:
    u = draw(1.1, 0.8, 1.3, (2, 1, 0, 3))
    jittered = apply(maps(u, jitter), image)
    expected = torch.einsum("c,chw->hw", torch.from_numpy(LUMA), jittered).expand(3, -1, -1)
    torch.testing.assert_close(apply(maps(u, jitter, gray=True), image), expected, atol=1e-6, rtol=0)


def test_without_jitter_nothing_changes() -> None:
    matrix, pivot = maps([0.1, 0.9, 0.2, 0.8, 0.3], jitter=False)
    np.testing.assert_array_equal(matrix, np.eye(3))
    assert not pivot.any()


def test_many_views_at_once_equal_one_by_one() -> None:
    u = np.random.default_rng(0).random((3, 4, 5))
    jitter, gray = u[..., 0] < 0.7, u[..., 1] < 0.5
    together = colour_maps(JITTER, u, jitter, gray)
    for place in np.ndindex(3, 4):
        alone = colour_maps(JITTER, u[place], jitter[place], gray[place])
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[place], single)
