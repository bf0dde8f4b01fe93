"""Mixup for self-distillation: the student sees blends of two images and owes each its share of the loss.

Image i of a batch is blended with its mirror in the batch, image B-1-i, view by view: x = w x_i + (1-w) x_(B-1-i).
The teacher sees the images unblended, and the loss is w L(x, teacher of i) + (1-w) L(x, teacher of B-1-i). Zhang et
al., "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), carried over to a teacher's targets; it has not
been compared with the authors' own option. w is one number a step, the same on every rank.
"""

import numpy as np
from pydantic import Field
from torch import Tensor

from pipeline.config import Config

_STREAM = 0x6D69  # keeps these draws apart from any other use of (seed, step)


class MixupConfig(Config):
    """How strongly images are blended.

    The partner comes from the images of one forward on one rank, so with mixup a run depends on the number of ranks.

    Attributes:
        alpha: w is drawn from Beta(alpha, alpha); 0 for no mixup. 0.8 is usual.
        probability: Of a step to be blended at all.
    """

    alpha: float = Field(default=0.0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)

    def weight(self, seed: int, step: int) -> float | None:
        """w of this step, or None if its images are not blended. A function of its arguments alone."""
        if not self.alpha:
            return None
        generator = np.random.Generator(np.random.Philox(key=[seed, (step << 16) + _STREAM]))
        if generator.random() >= self.probability:
            return None
        return float(generator.beta(self.alpha, self.alpha))


def blend(views: list[Tensor], weight: float) -> list[Tensor]:
    """Views [V, B, 3, H, W], each image blended with its mirror in the batch."""
    return [group.lerp(mirrored, 1 - weight) for group, mirrored in zip(views, mirror(views), strict=True)]


def mirror(views: list[Tensor]) -> list[Tensor]:
    """Views [V, B, 3, H, W] with the order of the images reversed."""
    return [group.flip(1) for group in views]
