"""Mixup and CutMix for self-distillation: the student sees two blended images and predicts the targets of both.

Image i of a batch is blended with its mirror in the batch, image B-1-i, view by view. Mixup adds the two, x = w x_i +
(1-w) x_(B-1-i). CutMix covers a box of image i with the same box of its mirror; image i keeps the share w of the area.
The teacher sees the images unblended. The loss is w L(x, teacher of i) + (1-w) L(x, teacher of B-1-i). Sources, for
labels instead of a teacher's targets: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412);
Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (arXiv 1905.04899).

The region task has the weights of the view task: each region predicts its best match in both images, with weights w
and 1-w, even where CutMix shows the region only one of the images.

The authors' option differs. It calls timm's Mixup, which blends a view in place; their teacher gets the same tensors
and so sees blended views, which their code does not mention. It draws anew for every view, and the loss with both tasks
leaves its targets as they are. Here the teacher sees each image unblended, and a step blends all views on every rank
alike. So this option is ours, and no published figure was trained with it.
"""

from typing import NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor

from pipeline.config import Config

_STREAM = 0x6D69  # separates these draws from other uses of (seed, step)
_GRID = 32  # boxes end at multiples of 1/32, which are whole pixels at 224 and at 96: w is exact at both sizes


class Box(NamedTuple):
    """A box in the image, in fractions of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


class Blend(NamedTuple):
    """How the images of a step are blended: the share w of the image itself and, for CutMix, the box of its mirror.

    At sizes that are not multiples of 32 a box ends at the nearest pixel, and w is off by the same fraction.
    """

    weight: float
    box: Box | None = None

    def __call__(self, views: list[Tensor]) -> list[Tensor]:
        """Views [V, B, 3, H, W], each image blended with its mirror in the batch."""
        return [self._blended(group, mirrored) for group, mirrored in zip(views, mirror(views), strict=True)]

    def _blended(self, group: Tensor, mirrored: Tensor) -> Tensor:
        if self.box is None:
            return group.lerp(mirrored, 1 - self.weight)
        height, width = group.shape[-2:]
        rows = slice(round(self.box.top * height), round(self.box.bottom * height))
        columns = slice(round(self.box.left * width), round(self.box.right * width))
        blended = group.clone()
        blended[..., rows, columns] = mirrored[..., rows, columns]
        return blended


class MixupConfig(Config):
    """How often and how strongly images are blended.

    An image's partner comes from the same forward on the same rank. So a run with blending depends on the number of
    ranks.

    Attributes:
        alpha: Strength of mixup: the weight w of an image is drawn from Beta(alpha, alpha); 0 for no mixup. 0.8 is
            usual.
        cutmix_alpha: Strength of CutMix, in the same way; 1 is usual. A border that cuts off a part of the box raises
            w.
        probability: Probability that a step is blended.
        switch_probability: Probability that a blended step is CutMix, where both are on.
    """

    alpha: float = Field(default=0.0, ge=0)
    cutmix_alpha: float = Field(default=0.0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)
    switch_probability: float = Field(default=0.5, ge=0, le=1)

    def blend(self, seed: int, step: int) -> Blend | None:
        """The blend of this step; None for images as they are. A function of `seed` and `step` alone."""
        if not self.alpha and not self.cutmix_alpha:
            return None
        generator = np.random.Generator(np.random.Philox(key=[seed, (step << 16) + _STREAM]))
        if generator.random() >= self.probability:
            return None
        cut = self.cutmix_alpha > 0
        if cut and self.alpha:
            cut = generator.random() < self.switch_probability
        if not cut:
            return Blend(float(generator.beta(self.alpha, self.alpha)))
        side = np.sqrt(1 - generator.beta(self.cutmix_alpha, self.cutmix_alpha))
        centre = generator.random((2, 1))
        ends = np.clip(centre + np.array([-0.5, 0.5]) * side, 0, 1)  # [2, 2]: rows, columns
        edges = np.round(ends * _GRID) / _GRID
        height, width = edges[:, 1] - edges[:, 0]
        return Blend(float(1 - height * width), Box(*edges.flatten().tolist()))


def mirror(views: list[Tensor]) -> list[Tensor]:
    """Views [V, B, 3, H, W] with the order of the images reversed."""
    return [group.flip(1) for group in views]
