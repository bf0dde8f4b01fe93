"""What an executor of the augmentation plan is, and what happens to images that cannot be decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.augment.plan import CropPlan

# Mean and standard deviation of ImageNet in RGB, 0..1, as every published backbone expects.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class BadImages(Exception):
    """Some images of the batch cannot be decoded: their places in the batch, and why."""

    reasons: dict[int, str]


class Executor(Protocol):
    """A pure function of (encoded images, plan)."""

    device: torch.device

    def __call__(self, images: Sequence[bytes], plan: CropPlan) -> list[torch.Tensor]:
        """Render the views of B encoded images.

        Returns:
            One tensor a group of equal sizes, float32 [V, B, 3, H, W], normalised, channels-last in memory, on
            `device`.

        Raises:
            BadImages: some images cannot be decoded; nothing was rendered.
        """
        ...

    def close(self) -> None:
        """Release threads and pipelines."""
        ...
