"""The objective: view and region loss against a centred, sharpened teacher (EsViT, section 3.2)."""

import math
from typing import Any

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from esvit import own_parts
from esvit.losses.center import Center
from esvit.losses.fused import Teacher, fused_cross_entropy
from esvit.losses.pairs import Predictions, Task, region_task, view_task
from pipeline.config import Config

__all__ = ["EsvitLoss", "LossConfig", "Predictions", "build_loss"]

_NAME = "esvit"
_REPORTED = ("loss", "view", "teacher_entropy")  # scalars that a run logs and watches


class LossConfig(Config):
    """Loss = (1 - region_weight) * view + region_weight * region; weight 0 is the view task alone, at full weight.

    The paper adds the two terms. The authors' implementation averages them, and so do all published figures.
    The teacher's temperature changes during a run, so it belongs to the schedules.

    Attributes:
        name: "esvit", or `package.module:Class` for a module of your own (docs/training.md).
        region_weight: Share of the region task.
        student_temperature: Divides the student's logits.
        center_momentum: Momentum of the centre, the moving mean of the teacher's logits.
        tile_mib: Memory of the logits of one tile. The loss takes a small multiple of this memory at any batch size.
        options: Settings of a class of your own.
    """

    name: str = _NAME
    region_weight: float = Field(default=0.5, ge=0, le=1)
    student_temperature: float = Field(default=0.1, gt=0)
    center_momentum: float = Field(default=0.9, ge=0, lt=1)
    tile_mib: PositiveInt = 32
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return own_parts.check_name(name, [_NAME])


def build_loss(config: LossConfig, num_prototypes: int) -> nn.Module:
    """The loss that `config` names.

    Raises:
        OwnPartError: there is no such class (see `own_parts.build`), or the class has parameters: nothing trains them.
    """
    if config.name == _NAME:
        return EsvitLoss(config, num_prototypes)
    loss: nn.Module = own_parts.build(config.name, nn.Module, config, num_prototypes)
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise own_parts.OwnPartError(f"{config.name} has parameters, but nothing trains them; make them buffers")

    def check(_module: nn.Module, _inputs: object, scalars: dict[str, Tensor]) -> None:
        if missing := [name for name in _REPORTED if name not in scalars]:
            raise own_parts.OwnPartError(f"{config.name} returns no '{missing[0]}'; it has {', '.join(scalars)}")

    loss.register_forward_hook(check)
    return loss


class EsvitLoss(nn.Module):
    """View and region loss. The centres are the state of this module; view only: `region_center` is None."""

    def __init__(self, config: LossConfig, num_prototypes: int) -> None:
        super().__init__()
        self.config = config
        self.view_center = Center(num_prototypes, config.center_momentum)
        self.region_center = Center(num_prototypes, config.center_momentum) if config.region_weight else None

    def forward(
        self, student: Predictions, teacher: Predictions, teacher_temperature: float, region_share: float = 1.0
    ) -> dict[str, Tensor]:
        """Compute the loss of one step, then move the centres; a collective call under DDP.

        The student's first views are the teacher's views, in the same order. Call this under the autocast of the
        networks: it sets the precision of the products with the prototypes. Softmaxes and sums are always in fp32.

        Args:
            region_share: Fraction (0..1) of the configured `region_weight` at this step, from the schedule.

        Returns:
            Scalars: "loss", the only one with a gradient; its terms "view" and, if the outputs have regions, "region";
            and "teacher_entropy", the entropy of this rank's mean view assignment over ln K: 0 if one prototype takes
            every image, 1 if all prototypes are used equally. Staying at 0 or 1 is collapse.
        """
        loss, mean_probs = self._term(self.view_center, view_task(student, teacher), teacher_temperature)
        scalars = {"view": loss.detach(), "teacher_entropy": _entropy_ratio(mean_probs)}
        if self.region_center is not None and student.region_rows is not None:
            region, _ = self._term(self.region_center, region_task(student, teacher), teacher_temperature)
            weight = self.config.region_weight * region_share
            loss = (1 - weight) * loss + weight * region
            scalars["region"] = region.detach()
        return {"loss": loss, **scalars}

    def _term(self, center: Center, task: Task, teacher_temperature: float) -> tuple[Tensor, Tensor]:
        """One term of the loss, and the mean [K] of the term's targets; moves the centre."""
        fused = fused_cross_entropy(
            task.student_rows,
            task.student_prototypes,
            Teacher(task.teacher_rows, task.teacher_prototypes, center.center, teacher_temperature),
            task.match,
            task.weights,
            self.config.student_temperature,
            self.config.tile_mib * 2**20,
        )
        num_rows = task.teacher_rows.shape[:2].numel()
        center.update(fused.teacher_logits, num_rows)
        return fused.loss, fused.teacher_probs / num_rows


def _entropy_ratio(mean_probs: Tensor) -> Tensor:
    """Entropy of mean probabilities [K], as a share of ln K."""
    return -torch.xlogy(mean_probs, mean_probs).sum() / math.log(len(mean_probs))
