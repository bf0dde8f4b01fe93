"""The contestants of esvit-bench: one training step each, timed phase by phase.

`direct` is the plain composition of `esvit.bench.direct`. `fused` is what esvit-train does, `recompute` the same with
blocks computed again in the backward, `compiled` with backbones compiled. All start from the same weights.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from esvit.bench.direct import DirectNetwork
from esvit.bench.direct_step import DirectLoss, build_direct_optimizer, clip_one_by_one, move_teacher_one_by_one
from esvit.bench.views import Views
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.models.swin import SwinArchitecture
from esvit.optim import OptimConfig, apply_schedule, build_optimizer, clip_gradients
from pipeline.errors import UserError

PHASES = ("data", "teacher", "student", "loss", "backward", "clip", "optimizer", "ema")
_LR, _WEIGHT_DECAY, _MOMENTUM, _TEMPERATURE, _CLIP_NORM = 1e-4, 0.04, 0.996, 0.04, 3.0


@dataclass(frozen=True)
class Settings:
    """What all contestants share."""

    backbone: BackboneConfig
    head: HeadConfig
    device: torch.device
    half: bool  # bf16 under autocast


class Step(ABC):
    """A training step; calling it adds the seconds of each phase to `seconds`. "data" is the wait for views."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self._device = settings.device
        self._autocast = torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.half)
        self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
        self._student: Any
        self._teacher: Any
        self._loss: Any
        self._optimizer: torch.optim.Optimizer

    def __call__(self, batches: Iterator[Views]) -> None:
        """One step, on the next of `batches`."""
        apply_schedule(self._optimizer, _LR, _WEIGHT_DECAY)
        with self._timed("data"):
            views = next(batches)
        with self._autocast:
            with self._timed("teacher"), torch.no_grad():
                targets = self._teacher(views[:1])
            with self._timed("student"):
                predictions = self._student(views)
            with self._timed("loss"):
                loss = self._loss(predictions, targets, _TEMPERATURE)
        self._move(loss)

    @abstractmethod
    def _move(self, loss: Tensor) -> None:
        """The other phases."""

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[phase].append(time.perf_counter() - begin)

    @property
    def resident_bytes(self) -> int:
        """Parameters, buffers and optimiser state."""
        tensors = [t for part in (self._student, self._teacher, self._loss) for t in part.state_dict().values()]
        for state in self._optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class OurStep(Step):
    """As in `esvit.step`."""

    def __init__(self, settings: Settings, *, recompute: bool = False, compiled: bool = False) -> None:
        super().__init__(settings)
        backbone = settings.backbone.replace(recompute=recompute)
        model = ModelConfig(backbone=backbone, head=settings.head, compile=compiled)
        self._networks = StudentTeacher(model, with_regions=True).to(settings.device)
        self._student, self._teacher = self._networks.student, self._networks.teacher
        self._loss = EsvitLoss(LossConfig(), settings.head.num_prototypes).to(settings.device)
        self._optimizer = build_optimizer(self._student, OptimConfig())

    def _move(self, loss: dict[str, Tensor]) -> None:  # type: ignore[override]
        with self._timed("backward"):
            torch.autograd.backward(loss["loss"])
        with self._timed("clip"):
            clip_gradients(self._student.parameters(), _CLIP_NORM, "per_tensor")
        with self._timed("optimizer"):
            self._optimizer.step()
            self._optimizer.zero_grad()
        with self._timed("ema"):
            self._networks.update_teacher(_MOMENTUM)


class DirectStep(Step):
    """One operation, one pair of views, one parameter after another.

    Raises:
        UserError: the backbone is not a Swin.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        architecture = settings.backbone.architecture
        if not isinstance(architecture, SwinArchitecture):
            raise UserError(
                f"the direct composition is of Swin alone, not of {settings.backbone.name}; "
                "leave 'direct' out of --variant"
            )
        weights = StudentTeacher(ModelConfig(backbone=settings.backbone, head=settings.head), with_regions=True)
        self._student, self._teacher = (
            DirectNetwork(architecture, settings.head, drop_path=flag).to(settings.device) for flag in (True, False)
        )
        for network in (self._student, self._teacher):
            network.load_state_dict(weights.student.state_dict())
        self._teacher.requires_grad_(False)
        self._loss = DirectLoss(settings.head.num_prototypes).to(settings.device)
        self._optimizer = build_direct_optimizer(self._student)

    def _move(self, loss: Tensor) -> None:
        with self._timed("backward"):
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
        with self._timed("clip"):
            clip_one_by_one(self._student.parameters(), _CLIP_NORM)
        with self._timed("optimizer"):
            self._optimizer.step()
        with self._timed("ema"):
            move_teacher_one_by_one(self._teacher, self._student, _MOMENTUM)


VARIANTS: dict[str, Callable[[Settings], Step]] = {
    "direct": DirectStep,
    "fused": OurStep,
    "recompute": partial(OurStep, recompute=True),
    "compiled": partial(OurStep, compiled=True),
}
