"""How far an executor is from the reference on the same plan, view by view and operation by operation."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.executor import IMAGENET_STD
from pipeline.augment.plan import CropPlan

# An operation is charged with the difference of the views in which it is the only one beyond crop, resize and flip.
OPERATIONS = ("crop, resize, flip", "colour", "blur", "solarize")


@dataclass
class Parity:
    """Absolute pixel differences in units of 1/255, gathered over batches."""

    _means: list[NDArray[np.float64]] = field(default_factory=list)  # each [V, B]
    _kinds: list[NDArray[np.int64]] = field(default_factory=list)  # each [V, B]: place in OPERATIONS, or -1
    _above: list[NDArray[np.float64]] = field(default_factory=list)  # each [V, B]: share of pixels above 6/255

    def add(self, reference: list[torch.Tensor], other: list[torch.Tensor], plan: CropPlan) -> None:
        """Take in the views of one batch from both executors."""
        std = torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
        differences = [
            ((view - expected.to(view)).abs() * std.to(view)).flatten(2)
            for group, expecteds in zip(other, reference, strict=True)
            for view, expected in zip(group[:, None], expecteds[:, None], strict=True)
        ]
        self._means.append(_rows(d.mean(dim=2) for d in differences))
        self._above.append(_rows((d > 6).double().mean(dim=2) for d in differences))
        blurred = plan.sigma > 0
        kind = 1 * plan.coloured + 2 * blurred + 3 * plan.solarize
        alone = plan.coloured.astype(int) + blurred + plan.solarize <= 1
        self._kinds.append(np.where(alone, kind, -1))

    def view_means(self) -> NDArray[np.float64]:
        """Mean difference of every view: [V, N]."""
        return np.concatenate(self._means, axis=1)

    def summary(self) -> dict[str, object]:
        """Mean by place of the view, the worst single view, the share above 6/255, and the mean by operation."""
        means, kinds = self.view_means(), np.concatenate(self._kinds, axis=1)
        by_operation = {
            name: float(means[kinds == i].mean()) for i, name in enumerate(OPERATIONS) if (kinds == i).any()
        }
        return {
            "mean": float(means.mean()),
            "mean_by_view": [round(float(value), 4) for value in means.mean(axis=1)],
            "worst_view": float(means.max()),
            "share_above_6": float(np.concatenate(self._above, axis=1).mean()),
            "mean_by_operation": by_operation,
        }


def _rows(views: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat(list(views)).double().cpu().numpy()
