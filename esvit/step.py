"""One optimisation step, from views to updated weights; the host never waits for the device."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esvit.guards import FeatureSpread, FiniteGuard
from esvit.mixup import Blend, mirror
from esvit.optim import OptimConfig, apply_schedule, clip_gradients, freeze_last_layers, step_unless
from esvit.schedules import StepValues
from esvit.state import TrainState
from pipeline.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PHASES = ("teacher", "student", "loss", "backward", "clip", "optimizer", "ema")
"""The phases of a step, in order; with accumulation the first four repeat for every part of the batch."""
Clock = Callable[[str], contextlib.AbstractContextManager[None]]
"""Called with the name of a phase; returns a context that is entered around that phase."""


def _no_clock(_phase: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class StepSettings:
    """What stays the same from step to step.

    Attributes:
        precision: Autocast type of the networks; losses and softmaxes stay in fp32. fp16 needs the state's scaler.
        accumulation: Forward and backward passes per step, each on an equal part of this rank's images. Without batch
            norm the result equals that of one pass.
        clock: Measures the phases; none by default.
    """

    optim: OptimConfig
    precision: Precision
    accumulation: PositiveInt
    clock: Clock = _no_clock

    def check_batch(self, global_batch: int, world_size: int) -> None:
        """Raise `UserError` unless every rank can split its images into `accumulation` equal parts."""
        if global_batch % (world_size * self.accumulation):
            raise UserError(
                f"global_batch {global_batch} cannot be split evenly over {world_size} ranks and accumulation "
                f"{self.accumulation}; choose a batch that is a multiple of {world_size * self.accumulation}"
            )


def train_step(
    state: TrainState,
    student: nn.Module,
    views: list[Tensor],
    values: StepValues,
    settings: StepSettings,
    *,
    epoch: int,
    guard: FiniteGuard,
    blend: Blend | None = None,
) -> dict[str, Tensor]:
    """One optimisation step on the views of this rank; no step after `guard` has seen a value that is not finite.

    Args:
        student: The student, wrapped in DDP if distributed.
        views: One tensor [V, B, 3, H, W] per size; the teacher sees the first.
        blend: See `esvit.mixup`; None for images as they are.

    Returns:
        This rank's scalars, still on the device: "loss", its terms, "teacher_entropy", "feature_std" and
        "gradient_norm".
    """
    networks, optimizer, clock = state.networks, state.optimizer, settings.clock
    apply_schedule(optimizer, values.lr, values.weight_decay)
    optimizer.zero_grad()
    centers = _Centers(state.loss)
    scalars: list[dict[str, Tensor]] = []
    parts = list(zip(*(group.chunk(settings.accumulation, dim=1) for group in views), strict=True))
    with FeatureSpread(networks.teacher.backbone) as spread:
        for number, part in enumerate(parts, start=1):
            with _gradients_averaged(student, number == len(parts)):
                found = _losses(state, student, list(part), values, settings, blend, centers)
                with clock("backward"):
                    torch.autograd.backward(state.scaler.scale(found["loss"] / len(parts)))
            scalars.append({name: value.detach() for name, value in found.items()})
    with clock("clip"):
        state.scaler.unscale_(optimizer)  # no effect except for fp16
        norm = clip_gradients(networks.student.parameters(), settings.optim.clip_norm, settings.optim.clip)
    if epoch < settings.optim.freeze_last_layer_epochs:
        freeze_last_layers(networks.student)
    means = {name: torch.stack([part[name] for part in scalars]).mean(dim=0) for name in scalars[0]}
    guard.observe(state.step, means["loss"] if state.scaler.is_enabled() else means["loss"] + 0 * norm)
    with clock("optimizer"):
        centers.settle(unless=guard.failed)
        _update(state, guard)
    with clock("ema"):
        networks.update_teacher(values.momentum, unless=guard.failed)
    return {**means, "feature_std": spread.mean(), "gradient_norm": norm}


def _losses(
    state: TrainState,
    student: nn.Module,
    views: list[Tensor],
    values: StepValues,
    settings: StepSettings,
    blend: Blend | None,
    centers: "_Centers",
) -> dict[str, Tensor]:
    """The loss and its terms on one part of the batch."""
    weights, batches, clock = [1.0], [views], settings.clock
    if blend is not None:
        weights = [blend.weight, 1 - blend.weight]
        batches = [views, mirror(views[:1])]
        views = blend(views)
    half = settings.precision != "fp32"
    with torch.autocast(views[0].device.type, _DTYPES[settings.precision], enabled=half):
        with clock("teacher"), torch.no_grad():
            targets = [state.networks.teacher(batch[:1]) for batch in batches]
        with clock("student"):
            predictions = student(views)
        found = []
        with clock("loss"):
            for target in targets:
                found.append(state.loss(predictions, target, values.teacher_temperature, values.region_share))
                centers.rewind()
    return {name: sum(w * part[name] for w, part in zip(weights, found, strict=True)) for name in found[0]}


def _update(state: TrainState, guard: FiniteGuard) -> None:
    """Move the student unless a gradient is not finite; the host does not wait to know."""
    if state.scaler.is_enabled():
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        step_unless(guard.failed, state.optimizer)


def _gradients_averaged(student: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a backward: `now`, ranks average their gradients; else a later backward does."""
    if now or not isinstance(student, DistributedDataParallel):
        return contextlib.nullcontext()
    manager: contextlib.AbstractContextManager[None] = student.no_sync()
    return manager


class _Centers:
    """One move of the centres per step. The loss moves its centres, its buffers, at every call. Here all calls of a
    step start from the same centres, and the step moves to the mean of the results: one move by the mean of all rows.
    """

    def __init__(self, loss: nn.Module) -> None:
        self._buffers = list(loss.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._reached: list[list[Tensor]] = []

    def rewind(self) -> None:
        """Remember the centres after a call, and reset them."""
        self._reached.append([buffer.clone() for buffer in self._buffers])
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def settle(self, unless: Tensor) -> None:
        """Move the centres to the mean; no move if `unless` [] is true."""
        for buffer, before, *reached in zip(self._buffers, self._before, *self._reached, strict=True):
            buffer.copy_(torch.where(unless, before, torch.stack(reached).mean(dim=0)))
