"""Pixel differences between an executor and the reference on the same plan, per view and per operation."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.crop_plan import CropPlan
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD

# The difference of a view counts for an operation if it is the view's only one besides crop and resize. A flip counts
# only if it is alone. Jitter with grayscale counts as grayscale.
OPERATIONS = ("crop and resize", "flip", "jitter", "grayscale", "blur", "solarize")
LARGE = 6  # in 1/255: a larger difference is visible


@dataclass
class Parity:
    """Absolute pixel differences in units of 1/255, collected over batches."""

    _means: list[NDArray[np.float64]] = field(default_factory=list)  # each [V, B]
    _kinds: list[NDArray[np.int64]] = field(default_factory=list)  # each [V, B]: place in OPERATIONS, or -1
    _large: list[NDArray[np.float64]] = field(default_factory=list)  # each [V, B]: share of pixels above LARGE
    _fractions: list[NDArray[np.float64]] = field(default_factory=list)  # each [V, B]

    def add(self, reference: list[torch.Tensor], other: list[torch.Tensor], plan: CropPlan) -> None:
        """Add the views of one batch from both executors, of any output type."""
        pairs = [
            (_pixels(expected), _pixels(view).to(expected.device))
            for group, expecteds in zip(other, reference, strict=True)
            for view, expected in zip(group, expecteds, strict=True)
        ]
        differences = [(view - expected).abs().flatten(1) for expected, view in pairs]
        self._means.append(_rows(d.mean(dim=1) for d in differences))
        self._large.append(_rows((d > LARGE).double().mean(dim=1) for d in differences))
        # All steps but the last give whole numbers: the fractions are the error of normalising.
        self._fractions.append(_rows((view - view.round()).abs().flatten(1).mean(dim=1) for _, view in pairs))
        self._kinds.append(_kinds(plan))

    def view_means(self) -> NDArray[np.float64]:
        """Mean difference of every view: [V, N]."""
        return np.concatenate(self._means, axis=1)

    def summary(self) -> dict[str, object]:
        """Mean differences, per view and per operation; the worst single view; shares of pixels above 6/255."""
        means, large, kinds = (np.concatenate(c, axis=1) for c in (self._means, self._large, self._kinds))
        found = {name: kinds == i for i, name in enumerate(OPERATIONS) if (kinds == i).any()}
        by_operation = {name: float(means[alone].mean()) for name, alone in found.items()}
        return {
            "mean": float(means.mean()),
            "mean_by_view": [round(float(value), 4) for value in means.mean(axis=1)],
            "worst_view": float(means.max()),
            "share_above_6": float(large.mean()),
            "mean_by_operation": {
                **by_operation,
                "normalise": float(np.concatenate(self._fractions, axis=1).mean()),
            },
            "share_above_6_by_operation": {name: float(large[alone].mean()) for name, alone in found.items()},
        }


def _kinds(plan: CropPlan) -> NDArray[np.int64]:
    """The place in OPERATIONS that each view counts for: [V, B], -1 for none."""
    gray = (plan.matrix[..., 0, :] == plan.matrix[..., 1, :]).all(axis=-1)
    colour = np.where(plan.coloured, np.where(gray, 3, 2), 0)
    kind = colour + 4 * (plan.sigma > 0) + 5 * plan.solarize
    kind = np.where((kind == 0) & plan.flip, 1, kind)
    alone = plan.coloured.astype(int) + (plan.sigma > 0) + plan.solarize <= 1
    return np.where(alone, kind, -1)


def _pixels(views: torch.Tensor) -> torch.Tensor:
    """Views [B, 3, H, W] of any output type as pixels 0..255, float64."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=views.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return views.double() if views.dtype == torch.uint8 else (views.double() * std + mean) * 255


def _rows(views: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    return torch.stack(list(views)).cpu().numpy()
