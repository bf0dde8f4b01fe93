"""The objective: view and region loss against a centred, sharpened teacher (EsViT, section 3.2)."""

import math
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from esvit.losses.center import Center
from esvit.losses.region import region_loss
from esvit.losses.view import view_loss
from pipeline.config import Config

__all__ = ["EsvitLoss", "LossConfig"]


class LossConfig(Config):
    """Loss = (1 - region_weight) * view + region_weight * region; 0 is the view task alone, at full weight.

    The paper adds the two terms; the authors' implementation, and so every published figure, averages them.
    The teacher's temperature changes during a run, so it belongs to the schedules.
    """

    region_weight: float = Field(default=0.5, ge=0, le=1)
    student_temperature: float = Field(default=0.1, gt=0)
    center_momentum: float = Field(default=0.9, ge=0, lt=1)


class Predictions(Protocol):
    """What the loss reads of a network's outputs, one tensor a view: [B, K], [B, T, K] and [B, T, D]."""

    @property
    def view_logits(self) -> list[Tensor]: ...
    @property
    def region_logits(self) -> list[Tensor] | None: ...
    @property
    def regions(self) -> list[Tensor] | None: ...


class EsvitLoss(nn.Module):
    """Both losses and their centres, the state of this module; `region_center` is None for view only."""

    def __init__(self, config: LossConfig, num_prototypes: int) -> None:
        super().__init__()
        self.region_weight = config.region_weight
        self.student_temperature = config.student_temperature
        self.view_center = Center(num_prototypes, config.center_momentum)
        self.region_center = Center(num_prototypes, config.center_momentum) if config.region_weight else None

    def forward(self, student: Predictions, teacher: Predictions, teacher_temperature: float) -> dict[str, Tensor]:
        """Compute the loss of one step, then move the centres; a collective call under DDP.

        The student's first views are the teacher's views, in the same order.

        Returns:
            Scalars: "loss", the one with a gradient; its terms "view" and, unless view only, "region"; and
            "teacher_entropy", the entropy of this rank's mean view assignment over ln K: 0 when one prototype
            takes every image, 1 when all are used alike. Staying at either end is collapse.
        """
        targets = [self.view_center.sharpen(logits, teacher_temperature) for logits in teacher.view_logits]
        loss = view_loss(student.view_logits, targets, self.student_temperature)
        scalars = {"view": loss.detach(), "teacher_entropy": _entropy_ratio(targets)}
        if self.region_center is not None:
            region = self._region_loss(self.region_center, student, teacher, teacher_temperature)
            loss = (1 - self.region_weight) * loss + self.region_weight * region
            scalars["region"] = region.detach()
        self.view_center.update(teacher.view_logits)
        return {"loss": loss, **scalars}

    def _region_loss(
        self, center: Center, student: Predictions, teacher: Predictions, teacher_temperature: float
    ) -> Tensor:
        assert student.region_logits is not None and student.regions is not None
        assert teacher.region_logits is not None and teacher.regions is not None
        targets = [center.sharpen(logits, teacher_temperature) for logits in teacher.region_logits]
        loss = region_loss(student.region_logits, student.regions, targets, teacher.regions, self.student_temperature)
        center.update(teacher.region_logits)
        return loss


def _entropy_ratio(probs: list[Tensor]) -> Tensor:
    """Entropy of the mean of probabilities [B, K], over all views, as a share of ln K."""
    mean = torch.stack(probs).flatten(0, 1).mean(dim=0)
    return -torch.xlogy(mean, mean).sum() / math.log(len(mean))
