"""`esvit-train --check`: whether a run can start, its length, and an estimate of its memory and hours.

The check opens the data and builds the networks like training. Then it makes steps on noise, of one image, two, four
and so on, until a step takes seconds or has all the images that a rank handles at once. A straight line through the
first and the last step gives the cost of a larger step. Nothing is written.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from esvit.checkpoints import files
from esvit.checkpoints.resuming import refuse_start_over
from esvit.distributed import World, place
from esvit.guards import FiniteGuard
from esvit.schedules import Schedules
from esvit.state import TrainState
from esvit.step import StepSettings, train_step
from esvit.training.config import TrainConfig
from esvit.training.start import check_writable, loader_of, new_state, step_settings, steps_per_epoch, store_of
from pipeline.console.command import EXIT_OK, write_json
from pipeline.console.lines import write_line
from pipeline.errors import UserError
from pipeline.shards.data_sets import open_data_set

_LONG_STEP_S = 2.0
_MOMENTS = {"adamw": 2, "sgd": 1, "lars": 1}  # each as large as the parameter


class TooLargeError(UserError):
    """A step does not fit into the memory of the GPU."""


@dataclass(frozen=True)
class Measured:
    """Cost of a step of `num_images`."""

    num_images: int
    seconds: float
    kept_bytes: int
    """Activations that autograd keeps for the backward."""
    peak_bytes: int | None
    """Peak of allocated memory; GPUs only."""


def check(config: TrainConfig, as_json: bool = False) -> int:
    """Print length, memory and time of the run that `config` describes. Returns the exit status.

    Raises:
        UserError: the run could not start, or a step does not fit into the GPU.
    """
    here = place(config.device)
    settings = step_settings(config, here)
    with loader_of(config, here) as loader:
        schedules = Schedules(config.schedule, steps_per_epoch(config, loader), config.global_batch)
        state = new_state(config, loader, here)
        check_writable(Path(config.output))
        store = store_of(config)
        saved = files.names(store)
        if not saved and not config.checkpoint.allow_start_over:
            first_step = config.checkpoint.start_epoch * schedules.steps_per_epoch
            refuse_start_over(store, Path(config.output), first_step)
    if not here.is_main:
        return EXIT_OK
    student = state.networks.student
    report = {
        "data": [_data_set(source.url) for source in config.data.stream.sources],
        "resumes_from": saved[-1] if saved else None,
        "steps": {
            "num_steps": schedules.num_steps,
            "steps_per_epoch": schedules.steps_per_epoch,
            "epochs": config.schedule.epochs,
            "global_batch": config.global_batch,
            "num_ranks": here.size,
        },
        "networks": {
            "backbone": config.model.backbone.name,
            "num_backbone_parameters": sum(p.numel() for p in student.backbone.parameters()),
            "num_parameters": sum(p.numel() for p in student.parameters()),
        },
        **_estimate(config, state, schedules, settings, here),
    }
    if as_json:
        write_json(report)
    else:
        _print(report, config.output)
    return EXIT_OK


def _data_set(url: str) -> dict[str, Any]:
    manifest = open_data_set(url).manifest
    return {
        "url": url,
        "num_samples": manifest.num_samples,
        "num_shards": len(manifest.shards),
        "num_bytes": manifest.num_bytes,
    }


def _estimate(
    config: TrainConfig, state: TrainState, schedules: Schedules, settings: StepSettings, here: World
) -> dict[str, Any]:
    """Memory per rank and time of the whole run, with the figures behind both."""
    at_once = config.global_batch // here.size // config.accumulation
    steps = _measured(config, state, schedules, settings, here.device, at_once)
    seconds = config.accumulation * _line([(step.num_images, step.seconds) for step in steps], at_once)
    return {
        "memory": {
            "resident_bytes": _resident_bytes(state, here),
            "activation_bytes": round(_line([(step.num_images, step.kept_bytes) for step in steps], at_once)),
            "images_at_once": at_once,
            "measured_peak_bytes": steps[-1].peak_bytes,
        },
        "time": {"seconds": seconds * schedules.num_steps, "seconds_per_step": seconds},
        "device": str(here.device),
        "measured_images": [steps[0].num_images, steps[-1].num_images],
    }


def _print(report: dict[str, Any], output: str) -> None:
    """The report for people."""
    for data in report["data"]:
        size = f"{data['num_samples']} images in {data['num_shards']} shards, {_size(data['num_bytes'])}"
        _say("data", f"{data['url']}: {size}")
    saved = report["resumes_from"]
    _say("checkpoints", f"the run resumes from {saved}" if saved else "none: a new run")
    steps, networks, memory, time_s = (report[name] for name in ("steps", "networks", "memory", "time"))
    ranks = f"{steps['num_ranks']} rank{'s' * (steps['num_ranks'] > 1)}"
    epochs = f"{steps['steps_per_epoch']} per epoch, {steps['epochs']} epochs"
    batch = f"{steps['global_batch']} images per step on {ranks}"
    _say("steps", f"{steps['num_steps']} in all: {epochs}, {batch}")
    millions = [networks[name] / 1e6 for name in ("num_backbone_parameters", "num_parameters")]
    count = "{:.2f} M parameters, {:.2f} M with heads".format(*millions)
    _say("networks", f"{networks['backbone']}: {count}; twice")
    first, last = report["measured_images"]
    sizes = f"steps of {first} and {last} on noise" if last > first else "a step on noise"
    resident, kept, at_once = (memory[name] for name in ("resident_bytes", "activation_bytes", "images_at_once"))
    _say("memory", f"of each rank about {_size(resident + kept)}, without what single operations need")
    _say("", f"{_size(resident)} networks, gradients and optimiser: counted")
    _say("", f"{_size(kept)} activations of {at_once} images at once: counted in {sizes}")
    if memory["measured_peak_bytes"] is not None:
        peak = _size(memory["measured_peak_bytes"])
        _say("", f"{peak} at most in a step of {last}: measured on {report['device']}")
    duration, per_step = _duration(time_s["seconds"]), f"{time_s['seconds_per_step']:.3g} s per step"
    _say("time", f"about {duration} on {report['device']}, {per_step}: measured in {sizes}")
    _say("", "computation alone, without waiting for data (pipeline-bench measures those)")
    write_line(f"Nothing was trained, and nothing was written to {output}.")


def _measured(
    config: TrainConfig,
    state: TrainState,
    schedules: Schedules,
    settings: StepSettings,
    device: torch.device,
    at_once: int,
) -> list[Measured]:
    """Measure steps of 1, 2, 4, ... images, up to `at_once`; the first step is made twice, to warm up.

    Raises:
        TooLargeError: the GPU has too little memory.
    """
    guard, is_gpu = FiniteGuard(device), device.type == "cuda"
    one_part = StepSettings(settings.optim, settings.precision, 1)
    values, epoch = schedules.at(0), config.optim.freeze_last_layer_epochs  # an epoch with trained prototypes

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
            f"a step of {num_images} images at once ({at_once} wanted) does not fit into the memory of {device}; "
            "raise accumulation, lower global_batch, or set model.backbone.recompute=true"
        ) from None
    return steps


def _line(points: list[tuple[int, float]], x: int) -> float:
    """Value at `x` of the straight line through the first and the last point."""
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    slope = (last_y - first_y) / (last_x - first_x) if last_x > first_x else 0.0
    return last_y + max(slope, 0.0) * (x - last_x)


def _noise(config: TrainConfig, num_images: int, device: torch.device) -> list[Tensor]:
    """Views like those of the loader: one tensor [V, B, 3, H, W] per size."""
    return [torch.randn(group.count, num_images, 3, *group.size, device=device) for group in config.augment.views]


@contextmanager
def _count_kept(networks: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps inside this context, by address; without parameters."""
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
    """Student, teacher and centres; gradients, twice under DDP; the optimiser's moments."""
    tensors = [*state.networks.state_dict().values(), *state.loss.state_dict().values()]
    trained = [p for p in state.networks.student.parameters() if p.requires_grad]
    copies = _MOMENTS[state.config["optim"]["name"]] + (2 if here.size > 1 else 1)
    num_bytes: int = sum(t.nbytes for t in tensors) + copies * sum(p.nbytes for p in trained)
    return num_bytes


def _size(num_bytes: float) -> str:
    return decimal(round(num_bytes))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.2g} minutes"


def _say(name: str, text: str) -> None:
    write_line(f"{name:<12} {text}")
