"""All schedules of a run, as pure functions of the global step (EsViT, section 4).

All values equal the authors' arrays, ends included: a warm-up of n steps is `linspace(0, peak, n)`, so its last step is
at the peak; a cosine over n steps stops one step before its final value.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from pipeline.config import Config

_EPOCHS = 300
_WARMUP_EPOCHS = 10
_TEMPERATURE_WARMUP_EPOCHS = 30


def _lr_warmup(given: dict[str, int]) -> int:
    """10, or a third of a shorter run"""
    return min(_WARMUP_EPOCHS, given.get("epochs", _EPOCHS) // 3)


def _temperature_warmup(given: dict[str, int]) -> int:
    """30, or the whole of a shorter run"""
    return min(_TEMPERATURE_WARMUP_EPOCHS, given.get("epochs", _EPOCHS))


class ScheduleConfig(Config):
    """Length of the run and the course of its schedules.

    Attributes:
        epochs: Length of the run.
        epoch_steps: Steps per epoch in all schedules and in `checkpoint`; 0 for one pass over the data. For data sets
            so large that a run is a number of steps. Does not change the order of samples: pass follows pass.
        warmup_epochs: Length of the warm-up of the learning rate, which is linear from 0.
        base_lr: Peak learning rate per 256 images of the global batch.
        min_lr: Learning rate at the end of its cosine; does not depend on the batch.
        weight_decay: Weight decay at the start; moves on a cosine to `final_weight_decay`.
        final_weight_decay: Weight decay at the end.
        teacher_momentum: Momentum of the teacher's moving average at the start; moves on a cosine to 1.
        teacher_temperature: Divides the teacher's logits, after the warm-up of the temperature.
        warmup_teacher_temperature: Temperature at the start; moves linearly, per epoch, to `teacher_temperature`.
        warmup_teacher_temperature_epochs: Length of the warm-up of the temperature.
        region_start_epoch: Before this epoch the region task is not computed: the run is one of the view task alone.
            Then the region heads, their moments in the optimiser and their centre start fresh. Regions match by
            features. The features of a new network encode positions before content, and an early region task can make
            that permanent (docs/experiments.md).
        region_warmup_epochs: From the start epoch on, the region task's share of the loss rises linearly, per step, to
            `loss.region_weight`.
    """

    epochs: PositiveInt = _EPOCHS
    epoch_steps: int = Field(default=0, ge=0)
    warmup_epochs: int = Field(default_factory=_lr_warmup, ge=0)
    base_lr: float = Field(default=5e-4, ge=0)
    min_lr: float = Field(default=1e-6, ge=0)
    weight_decay: float = Field(default=0.04, ge=0)
    final_weight_decay: float = Field(default=0.4, ge=0)
    teacher_momentum: float = Field(default=0.996, ge=0, le=1)
    teacher_temperature: float = Field(default=0.07, gt=0)
    warmup_teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature_epochs: int = Field(default_factory=_temperature_warmup, ge=0)
    region_start_epoch: int = Field(default=0, ge=0)
    region_warmup_epochs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _warmups_end(self) -> Self:
        for key in ("warmup_epochs", "warmup_teacher_temperature_epochs"):
            if getattr(self, key) > self.epochs:
                longer = f"{key} ({getattr(self, key)}) exceeds epochs ({self.epochs})"
                raise ValueError(f"{longer}; lower it, or leave it out for what fits")
        return self


class StepValues(NamedTuple):
    """The values of one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    region_share: float = 1.0  # of `loss.region_weight`


@dataclass(frozen=True)
class Schedules:
    """The schedules of one run; `global_batch` counts the images of one step over all ranks."""

    config: ScheduleConfig
    steps_per_epoch: int
    global_batch: int

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up."""
        return self.config.base_lr * self.global_batch / 256

    @property
    def region_start_step(self) -> int:
        """The step with which the phase of regions begins."""
        return self.config.region_start_epoch * self.steps_per_epoch

    def at(self, step: int) -> StepValues:
        """The values of global step 0 <= `step` < `num_steps`."""
        assert 0 <= step < self.num_steps, f"step {step} is outside the run of {self.num_steps} steps"
        config = self.config
        return StepValues(
            lr=self._lr(step),
            weight_decay=cosine(config.weight_decay, config.final_weight_decay, self.num_steps, step),
            momentum=cosine(config.teacher_momentum, 1.0, self.num_steps, step),
            teacher_temperature=linear(
                config.warmup_teacher_temperature,
                config.teacher_temperature,
                config.warmup_teacher_temperature_epochs,
                step // self.steps_per_epoch,
            ),
            region_share=self._region_share(step),
        )

    def _region_share(self, step: int) -> float:
        since_start = step - self.region_start_step
        if since_start < 0:
            return 0.0
        return linear(0.0, 1.0, self.config.region_warmup_epochs * self.steps_per_epoch, since_start)

    def _lr(self, step: int) -> float:
        warmup = self.config.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return linear(0.0, self.peak_lr, warmup, step)
        return cosine(self.peak_lr, self.config.min_lr, self.num_steps - warmup, step - warmup)


def linear(start: float, end: float, num_steps: int, step: int) -> float:
    """Element `step` of `linspace(start, end, num_steps)`; `end` after the last element."""
    if step >= num_steps:
        return end
    return start + (end - start) * step / max(num_steps - 1, 1)


def cosine(start: float, end: float, num_steps: int, step: int) -> float:
    """Half a cosine from `start` at step 0 towards `end`, which step `num_steps` would reach."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / num_steps))
