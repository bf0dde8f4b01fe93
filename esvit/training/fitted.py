"""Choose the preset for a machine and a number of images, and fit its settings to both."""

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from esvit.training import presets
from esvit.training.config import TrainConfig
from pipeline import config as configuration
from pipeline.errors import UserError

MIN_IMAGES = 8
"""Least number of images per rank. With fewer, there is nothing to compare an image with."""

_MIN_STEPS = 4  # per epoch
_IMAGES_PER_PROTOTYPE = 10
_MIN_PROTOTYPES = 8
_STEPS_BETWEEN_SAVES = 100  # or more: an epoch of a small folder takes seconds


class TooFewImagesError(UserError):
    """A folder is too small to pre-train on."""


class _Choice(NamedTuple):
    """A preset, and the least number of images and GPU memory for it."""

    preset: str
    num_images: int
    gpu_bytes: float  # a "24 GB" GPU has a little less


_MANY = 200_000
_ON_GPU = (  # the first that fits; the last if none fits
    _Choice("swin_tiny_1gpu_80gb", _MANY, 75e9),
    _Choice("swin_tiny_1gpu_24gb", _MANY, 22e9),
    _Choice("own_images", 0, 22e9),
)
_ON_CPU = _Choice("own_images_cpu", 0, 0)


@dataclass(frozen=True)
class Machine:
    """The machine of a run."""

    gpu_bytes: int | None
    """Memory of a rank's GPU; None where the run is on the CPU."""
    num_ranks: int = 1


@dataclass(frozen=True)
class Fitted:
    """A preset and the settings on top of it."""

    preset: str
    settings: dict[str, Any]
    reason: str
    """One sentence for the user."""


def this_machine(device: str) -> Machine:
    """The machine of this process, and the number of ranks from torchrun; `device` as in `TrainConfig`."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    gpu_bytes = torch.cuda.get_device_properties(0).total_memory if on_gpu else None
    return Machine(gpu_bytes, int(os.environ.get("WORLD_SIZE", "1")))


def fit(num_images: int, machine: Machine) -> Fitted:
    """Choose a preset; then fit batch and prototypes to the images, and accumulation to the GPU.

    Raises:
        TooFewImagesError: there are fewer than `MIN_IMAGES` per rank.
    """
    ranks = machine.num_ranks
    if num_images < MIN_IMAGES * ranks:
        on = f" on {ranks} ranks" if ranks > 1 else ""
        raise TooFewImagesError(
            f"{num_images} images are too few to pre-train{on}: it takes {MIN_IMAGES * ranks} to start, and some "
            "thousands to learn from"
        )
    choice = _choice(num_images, machine)
    base = configuration.load(TrainConfig, [presets.path_of(choice.preset)], ["output=."])
    per_rank = _power_of_two(min(base.global_batch, num_images / _MIN_STEPS) / ranks)
    batch, at_once = per_rank * ranks, base.global_batch // base.accumulation
    if machine.gpu_bytes is not None:
        at_once = _power_of_two(at_once * min(1.0, machine.gpu_bytes / choice.gpu_bytes))
    nearest = _power_of_two(num_images / _IMAGES_PER_PROTOTYPE * math.sqrt(2))
    prototypes = min(max(_MIN_PROTOTYPES, nearest), base.model.head.num_prototypes)
    settings: dict[str, Any] = {
        "global_batch": batch,
        "accumulation": max(1, per_rank // at_once),
        "model": {"head": {"num_prototypes": prototypes}},
    }
    if num_images // batch < _STEPS_BETWEEN_SAVES:
        settings["checkpoint"] = {"every_steps": _STEPS_BETWEEN_SAVES}
    gpu = "no GPU" if machine.gpu_bytes is None else f"a GPU of {machine.gpu_bytes / 1e9:.0f} GB"
    chosen = f"preset {choice.preset} with a batch of {batch} and {prototypes:,} prototypes"
    return Fitted(choice.preset, settings, f"for {num_images:,} images and {gpu}: {chosen}")


def _choice(num_images: int, machine: Machine) -> _Choice:
    if machine.gpu_bytes is None:
        return _ON_CPU
    fitting = (one for one in _ON_GPU if num_images >= one.num_images and machine.gpu_bytes >= one.gpu_bytes)
    return next(fitting, _ON_GPU[-1])


def _power_of_two(number: float) -> int:
    """The largest power of two up to `number`, at least 1."""
    return 1 << max(0, math.floor(math.log2(number)))
