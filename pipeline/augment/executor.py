"""The interface of the executors of the augmentation plan: inputs, output types, and undecodable images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch

from pipeline.augment.crop_plan import CropPlan
from pipeline.buffers import BufferPool, Encoded

# Mean and standard deviation of ImageNet in RGB, 0..1, which every published backbone expects.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# float32 and float16 are normalised. uint8 is the pixels, 0..255, at a quarter of the bytes: see `normalised`.
Output = Literal["float32", "float16", "uint8"]
OUTPUT_TYPES: dict[Output, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "uint8": torch.uint8,
}
_NUMPY_TYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8}


@dataclass
class BadImages(Exception):
    """Some images of the batch cannot be decoded: the reason by place in the batch."""

    reasons: dict[int, str]


class Executor(Protocol):
    """A pure function of (encoded images, plan) to views. Call it, or `start` it and collect the result later.

    Attributes:
        device: Where the views are.
        batches_ahead: Batches that it can render while the caller waits for an earlier one.
    """

    device: torch.device
    batches_ahead: int

    def start(self, images: Sequence[Encoded], plan: CropPlan) -> Callable[[], list[torch.Tensor]]:
        """Begin to render a batch. The function returned waits for the views; call each once, in the order of starts.

        Raises:
            BadImages: as `__call__`; the function returned may raise it too. Other batches are not affected.
        """
        ...

    def __call__(self, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        """Render the views of B encoded images.

        Returns:
            One tensor [V, B, 3, H, W] per group of equal sizes, of the executor's output type, channels-last in memory,
            on `device`.

        Raises:
            BadImages: some images cannot be decoded; nothing was rendered.
        """
        ...

    def close(self) -> None:
        """Release threads and pipelines."""
        ...


def normalised(views: torch.Tensor) -> torch.Tensor:
    """Views [..., 3, H, W] of any output type as float32, (x / 255 - mean) / std. float32 views are not copied."""
    if views.dtype != torch.uint8:
        return views.float()
    scale, shift = (constant.to(views.device).view(3, 1, 1) for constant in scale_and_shift(1))
    return torch.addcmul(shift, views.float(), scale)


def empty_stack(pool: BufferPool, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of `shape` [V, B, H, W, 3] in memory of `pool`, for the views of one size; contents undefined."""
    return torch.from_numpy(pool.empty(shape, _NUMPY_TYPES[dtype]))


@lru_cache
def scale_and_shift(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Constants to normalise a row of `width` RGB pixels 0..255 as x * scale + shift: both float32 [3 * width]."""
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    scale, shift = 1 / (255 * std), -torch.tensor(IMAGENET_MEAN, dtype=torch.float64) / std
    return scale.repeat(width).float(), shift.repeat(width).float()
