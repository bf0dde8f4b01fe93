"""The contestants of esvit-bench: one training step each, timed phase by phase.

    direct      the plain composition of `esvit.bench.direct`
    fused       the step of esvit-train
    recompute   the same, with blocks recomputed in the backward
    compiled    the same, with compiled backbones

All start from the same weights.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from esvit import step
from esvit.bench.direct import DirectNetwork
from esvit.bench.direct_step import DirectLoss, build_direct_optimizer, clip_one_by_one, move_teacher_one_by_one
from esvit.bench.views import Views
from esvit.guards import FiniteGuard
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.models.swin import SwinArchitecture
from esvit.optim import OptimConfig, apply_schedule, build_optimizer
from esvit.schedules import StepValues
from esvit.state import TrainState
from pipeline.errors import UserError

PHASES = ("data", *step.PHASES)
"""The wait for views, then the phases of the step."""
_VALUES = StepValues(lr=1e-4, weight_decay=0.04, momentum=0.996, teacher_temperature=0.04)
_OPTIM = OptimConfig(freeze_last_layer_epochs=0)  # as in every epoch after the first


@dataclass(frozen=True)
class Settings:
    """What all contestants share."""

    backbone: BackboneConfig
    head: HeadConfig
    device: torch.device
    precision: step.Precision


class Contestant(ABC):
    """A training step. Every call adds its time to `seconds` and the time of each phase to `phases`."""

    student: nn.Module
    teacher: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self._settings = settings
        self.seconds: list[float] = []
        self.phases: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def __call__(self, batches: Iterator[Views]) -> None:
        """One step, on the next of `batches`."""
        begin = time.perf_counter()
        with self.clock("data"):
            views = next(batches)
        self.train(views)
        self.seconds.append(time.perf_counter() - begin)

    @abstractmethod
    def train(self, views: Views) -> None:
        """One step on `views`; times its phases with `clock`."""

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """An `esvit.step.Clock`. It waits for the device at the end of each phase."""
        begin = time.perf_counter()
        yield
        if self._settings.device.type == "cuda":
            torch.cuda.synchronize(self._settings.device)
        self.phases[phase].append(time.perf_counter() - begin)

    def forget_times(self) -> None:
        """Start timing anew, after the warm-up."""
        for times in (self.seconds, *self.phases.values()):
            times.clear()

    @property
    def resident_bytes(self) -> int:
        """Bytes that stay from step to step: parameters, buffers and optimiser state."""
        tensors = [t for part in (self.student, self.teacher, self.loss) for t in part.state_dict().values()]
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class OurStep(Contestant):
    """`esvit.step.train_step`, as esvit-train calls it."""

    def __init__(self, settings: Settings, *, recompute: bool = False, compiled: bool = False) -> None:
        super().__init__(settings)
        device, backbone = settings.device, settings.backbone.replace(recompute=recompute)
        model = ModelConfig(backbone=backbone, head=settings.head, compile=compiled)
        networks = StudentTeacher(model, with_regions=True).to(device)
        objective = EsvitLoss(LossConfig(), settings.head.num_prototypes).to(device)
        optimizer = build_optimizer(networks.student, _OPTIM)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        self._state = TrainState(networks, objective, optimizer, scaler, loader=None, config={})
        self._guard = FiniteGuard(device)
        self._step_settings = step.StepSettings(_OPTIM, settings.precision, accumulation=1, clock=self.clock)
        self.student, self.teacher, self.loss, self.optimizer = networks.student, networks.teacher, objective, optimizer

    def train(self, views: Views) -> None:
        """See `Contestant`."""
        step.train_step(self._state, self.student, views, _VALUES, self._step_settings, epoch=0, guard=self._guard)
        self._state.step += 1


class DirectStep(Contestant):
    """One operation, one pair of views, one parameter after another.

    Raises:
        UserError: the backbone is not a Swin.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        architecture = settings.backbone.architecture
        if not isinstance(architecture, SwinArchitecture):
            raise UserError(
                f"variant 'direct' supports only Swin, not {settings.backbone.name}; leave 'direct' out of --variant"
            )
        weights = StudentTeacher(ModelConfig(backbone=settings.backbone, head=settings.head), with_regions=True)
        self.student, self.teacher = (
            DirectNetwork(architecture, settings.head, drop_path=flag).to(settings.device) for flag in (True, False)
        )
        for network in (self.student, self.teacher):
            network.load_state_dict(weights.student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = DirectLoss(settings.head.num_prototypes).to(settings.device)
        self.optimizer = build_direct_optimizer(self.student)

    def train(self, views: Views) -> None:
        """See `Contestant`."""
        apply_schedule(self.optimizer, _VALUES.lr, _VALUES.weight_decay)
        self.optimizer.zero_grad()
        half = self._settings.precision == "bf16"
        with torch.autocast(self._settings.device.type, torch.bfloat16, enabled=half):
            with self.clock("teacher"), torch.no_grad():
                targets = self.teacher(views[:1])
            with self.clock("student"):
                predictions = self.student(views)
            with self.clock("loss"):
                loss = self.loss(predictions, targets, _VALUES.teacher_temperature)["loss"]
        with self.clock("backward"):
            torch.autograd.backward(loss)
        with self.clock("clip"):
            clip_one_by_one(self.student.parameters(), _OPTIM.clip_norm)
        with self.clock("optimizer"):
            self.optimizer.step()
        with self.clock("ema"):
            move_teacher_one_by_one(self.teacher, self.student, _VALUES.momentum)


VARIANTS: dict[str, Callable[[Settings], Contestant]] = {
    "direct": DirectStep,
    "fused": OurStep,
    "recompute": partial(OurStep, recompute=True),
    "compiled": partial(OurStep, compiled=True),
}
