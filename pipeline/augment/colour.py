"""Colour jitter and grayscale of a view as one affine map of its pixels.

torchvision's ColorJitter applies brightness, contrast, saturation and hue in a random order. The first three are
affine maps of RGB space. Contrast also depends on the mean luma of the image, so every view is y = M x + P mean(x), and
each operation updates M and P. torchvision's hue shift in HSV is not affine. It is replaced by the linear map that is
closest to it on photographs (figures: docs/decisions/0002-one-colour-matrix.md).
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PIL's and torchvision's grayscale
_TO_GRAY = np.outer(np.ones(3), LUMA)
# Hue: x + (sin(turn) A + (1 - cos(turn)) B) (R - G, G - B), which does not change grays. A and B are the least-squares
# fit to torchvision's adjust_hue over 250 ImageNet photographs and shifts from -0.1 to 0.1.
_DIFFERENCES = np.array([[1, -1, 0], [0, 1, -1]])
_HUE_SIN = np.array([[0.188, -0.481], [0.769, 0.674], [-0.398, 0.081]]) @ _DIFFERENCES
_HUE_COS = np.array([[-0.277, -0.581], [0.408, -0.705], [0.432, 0.176]]) @ _DIFFERENCES

# All orders of (brightness, contrast, saturation, hue).
_ORDERS = np.array(list(itertools.permutations(range(4))))
_CONTRAST = 1


class ColourJitter(Config):
    """Colour jitter as in torchvision: a factor is drawn from 1 +- strength, the turn of the hue from +- hue.

    Attributes:
        probability: Probability that the colours of a view are changed.
        brightness: Strength of the change of brightness.
        contrast: Strength of the change of contrast.
        saturation: Strength of the change of saturation.
        hue (turns): Largest turn of the hue.
    """

    probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1


def colour_maps(
    config: ColourJitter, u: NDArray[np.float64], jitter: NDArray[np.bool_], gray: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """M and P of each view: y = M x + P mean(x).

    Args:
        u: Five uniform numbers per view [..., 5]: four factors and the order.
        jitter: Whether the jitter applies [...].
        gray: Whether the grayscale applies [...], after the jitter.

    Returns:
        M and P, float32 [..., 3, 3].
    """
    identity = np.broadcast_to(np.eye(3), (*jitter.shape, 3, 3))
    steps = _operations(config, u[..., :4])
    order = _ORDERS[(u[..., 4] * len(_ORDERS)).astype(np.int64)]
    matrix, pivot = identity, np.zeros_like(identity)
    for place in range(4):
        operation = order[..., place]
        step = np.take_along_axis(steps, operation[..., None, None, None], axis=-3)[..., 0, :, :]
        # Contrast mixes the pixel with the mean luma of the image so far; this is the weight of the luma.
        weight = np.where(operation == _CONTRAST, 1 - step[..., 0, 0], 0)[..., None, None]
        mean_luma = weight * (_TO_GRAY @ (matrix + pivot))
        matrix, pivot = step @ matrix, step @ pivot + mean_luma
    matrix = np.where(jitter[..., None, None], matrix, identity)
    pivot = np.where(jitter[..., None, None], pivot, 0)
    matrix = np.where(gray[..., None, None], _TO_GRAY @ matrix, matrix)
    pivot = np.where(gray[..., None, None], _TO_GRAY @ pivot, pivot)
    return matrix.astype(np.float32), pivot.astype(np.float32)


def _operations(config: ColourJitter, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The linear part of brightness, contrast, saturation and hue: [..., 4, 3, 3]."""
    strengths = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (
        (max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * u[..., i])[..., None, None] for i, s in enumerate(strengths)
    )
    turn = (2 * np.pi * config.hue * (2 * u[..., 3] - 1))[..., None, None]
    eye = np.eye(3)
    return np.stack(
        [
            brightness * eye,
            contrast * eye,
            saturation * eye + (1 - saturation) * _TO_GRAY,
            eye + np.sin(turn) * _HUE_SIN + (1 - np.cos(turn)) * _HUE_COS,
        ],
        axis=-3,
    )
