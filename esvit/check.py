"""`esvit-train --check`: whether a run can start, how long it is, and an estimate of its memory and hours.

The data are opened and the networks built as training does it. Then steps are made on noise of the right shapes, of one
image, two, four and so on, until one takes seconds or has all the images that a rank handles at once. What a larger
step takes is a straight line through the first and the last of them. Nothing is written.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from esvit.checkpoints import files
from esvit.distributed import World, place
from esvit.guards import FiniteGuard
from esvit.schedules import Schedules
from esvit.start import check_writable, loader_of, new_state, step_settings, steps_per_epoch, store_of
from esvit.state import TrainState
from esvit.step import StepSettings, train_step
from esvit.train_config import TrainConfig
from pipeline.errors import UserError
from pipeline.shards.data_sets import open_data_set

_LONG_STEP_S = 2.0
_MOMENTS = 2  # of AdamW, each as large as its parameter


class TooLargeError(UserError):
    """A step does not fit into the memory of the GPU."""


@dataclass(frozen=True)
class Measured:
    """A step of so many images."""

    num_images: int
    seconds: float
    kept_bytes: int
    """What autograd keeps from the forward for the backward."""
    peak_bytes: int | None
    """All that was allocated at a time; of GPUs only."""


def check(config: TrainConfig) -> int:
    """Print what the run that `config` describes will take. Returns the exit status.

    Raises:
        UserError: the run could not start, or its step does not fit into the GPU.
    """
    here = place(config.device)
    settings = step_settings(config, here)
    with loader_of(config, here) as loader:
        schedules = Schedules(config.schedule, steps_per_epoch(config, loader), config.global_batch)
        state = new_state(config, loader, here)
        check_writable(Path(config.output))
        saved = files.names(store_of(config))
    if not here.is_main:
        return 0
    for source in config.data.stream.sources:
        manifest = open_data_set(source.url).manifest
        size = f"{manifest.num_samples} images in {len(manifest.shards)} shards, {_size(manifest.num_bytes)}"
        _say("data", f"{source.url}: {size}")
    _say("checkpoints", f"the run resumes from {saved[-1]}" if saved else "none: a new run")
    batch = f"{config.global_batch} images per step on {here.size} rank{'s' * (here.size > 1)}"
    epochs = f"{schedules.steps_per_epoch} per epoch, {config.schedule.epochs} epochs"
    _say("steps", f"{schedules.num_steps} in all: {epochs}, {batch}")
    student = state.networks.student
    count = sum(p.numel() for p in student.parameters()) / 1e6
    backbone = sum(p.numel() for p in student.backbone.parameters()) / 1e6
    _say("networks", f"{config.model.backbone.name}: {backbone:.2f} M parameters, {count:.2f} M with heads; twice")
    _estimate(config, state, schedules, settings, here)
    sys.stdout.write(f"Nothing was trained, and nothing was written to {config.output}.\n")
    return 0


def _estimate(
    config: TrainConfig, state: TrainState, schedules: Schedules, settings: StepSettings, here: World
) -> None:
    at_once = config.global_batch // here.size // config.accumulation
    steps = _measured(config, state, schedules, settings, here.device, at_once)
    resident, last = _resident_bytes(state, here), steps[-1]
    kept = _line([(step.num_images, step.kept_bytes) for step in steps], at_once)
    seconds = config.accumulation * _line([(step.num_images, step.seconds) for step in steps], at_once)
    sizes = f"steps of {steps[0].num_images} and {last.num_images} on noise" if len(steps) > 1 else "a step on noise"
    _say("memory", f"of each rank about {_size(resident + kept)}, without what single operations need")
    _say("", f"{_size(resident)} networks, gradients and optimiser: counted")
    _say("", f"{_size(kept)} activations of {at_once} images at once: counted in {sizes}")
    if last.peak_bytes is not None:
        _say("", f"{_size(last.peak_bytes)} at most in a step of {last.num_images}: measured on {here.device}")
    duration = _duration(seconds * schedules.num_steps)
    _say("time", f"about {duration} on {here.device}, {seconds:.3g} s per step: measured in {sizes}")
    _say("", "computation alone, without waiting for data (pipeline-bench measures those)")


def _measured(
    config: TrainConfig,
    state: TrainState,
    schedules: Schedules,
    settings: StepSettings,
    device: torch.device,
    at_once: int,
) -> list[Measured]:
    """Steps of 1, 2, 4, ... images, up to `at_once`; the first is made twice, to warm up.

    Raises:
        TooLargeError: the GPU has too little memory.
    """
    guard, is_gpu = FiniteGuard(device), device.type == "cuda"
    one_part = StepSettings(settings.optim, settings.precision, 1)
    values, epoch = schedules.at(0), config.optim.freeze_last_layer_epochs  # where the prototypes are trained

    def step(num_images: int) -> Measured:
        views = _noise(config, num_images, device)
        begin = time.perf_counter()
        with _count_kept(state.networks) as kept:
            train_step(state, state.networks.student, views, values, one_part, epoch=epoch, guard=guard)
        if is_gpu:
            torch.cuda.synchronize(device)
        seconds, peak = time.perf_counter() - begin, torch.cuda.max_memory_allocated(device) if is_gpu else None
        return Measured(num_images, seconds, sum(kept.values()), peak)

    num_images, steps = 1, list[Measured]()
    try:
        step(num_images)
        steps.append(step(num_images))
        while num_images < at_once and (num_images == 1 or steps[-1].seconds < _LONG_STEP_S):
            num_images = min(2 * num_images, at_once)
            steps.append(step(num_images))
    except torch.OutOfMemoryError:
        raise TooLargeError(
            f"a step of {num_images} images at once, of {at_once} wanted, does not fit into the memory of {device}; "
            "raise accumulation, lower global_batch, or set model.backbone.recompute=true"
        ) from None
    return steps


def _line(points: list[tuple[int, float]], x: int) -> float:
    """At `x`, the straight line through the first and the last of the points."""
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    slope = (last_y - first_y) / (last_x - first_x) if last_x > first_x else 0.0
    return last_y + max(slope, 0.0) * (x - last_x)


def _noise(config: TrainConfig, num_images: int, device: torch.device) -> list[Tensor]:
    """Views as the loader gives them: one tensor [V, B, 3, H, W] a size."""
    return [torch.randn(group.count, num_images, 3, *group.size, device=device) for group in config.augment.views]


@contextmanager
def _count_kept(networks: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage, by its address, that autograd keeps in here, but for the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in networks.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _resident_bytes(state: TrainState, here: World) -> int:
    """Student, teacher and centres; the gradients, twice where DDP exchanges them; AdamW's moments."""
    tensors = [*state.networks.state_dict().values(), *state.loss.state_dict().values()]
    trained = [p for p in state.networks.student.parameters() if p.requires_grad]
    copies = _MOMENTS + (2 if here.size > 1 else 1)
    num_bytes: int = sum(t.nbytes for t in tensors) + copies * sum(p.nbytes for p in trained)
    return num_bytes


def _size(num_bytes: float) -> str:
    return decimal(round(num_bytes))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.2g} minutes"


def _say(name: str, text: str) -> None:
    sys.stdout.write(f"{name:<12} {text}\n")
