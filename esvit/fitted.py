"""The preset that suits a machine, with batch and prototypes that suit a number of images."""

import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from esvit import presets
from esvit.train_config import TrainConfig
from pipeline import config as configuration
from pipeline.errors import UserError

MIN_IMAGES = 8
"""Per rank. With fewer there is nothing to compare an image with."""

_CPU_PRESET = "cpu_trial"
_GPU_PRESETS = {"one_gpu_80gb": 75e9, "one_gpu_24gb": 0.0}
"""The memory in bytes from which on each is taken. Batches are those of one GPU of the size in its name."""
_LARGE_ENOUGH_BYTES = 22e9  # what a GPU that is sold as one of 24 GB has at least
_MIN_STEPS = 4  # of an epoch
_IMAGES_PER_PROTOTYPE = 20  # as the paper's 65,536 for the 1.28 M images of ImageNet-1K
_MIN_PROTOTYPES = 8


class TooFewImagesError(UserError):
    """A folder is too small to pre-train on."""


@dataclass(frozen=True)
class Machine:
    """What a run is to be fitted to."""

    gpu_bytes: int | None
    """Memory of a rank's GPU; None where the run is on the CPU."""
    num_ranks: int = 1
    has_dali: bool = True


@dataclass(frozen=True)
class Fitted:
    """A preset and the settings on top of it."""

    preset: str
    settings: dict[str, Any]
    reason: str
    """One sentence for the user."""


def this_machine(device: str) -> Machine:
    """The machine that this process is on, and the ranks that torchrun has started; `device` as in `TrainConfig`."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    gpu_bytes = torch.cuda.get_device_properties(0).total_memory if on_gpu else None
    has_dali = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    return Machine(gpu_bytes, int(os.environ.get("WORLD_SIZE", "1")), has_dali)


def fit(num_images: int, machine: Machine) -> Fitted:
    """Choose a preset for the machine, and fit its batch and its prototypes to the number of images.

    Raises:
        TooFewImagesError: there are fewer than `MIN_IMAGES` per rank.
    """
    ranks = machine.num_ranks
    if num_images < MIN_IMAGES * ranks:
        on = f" on {ranks} ranks" if ranks > 1 else ""
        raise TooFewImagesError(
            f"{num_images} images are too few to pre-train on{on}: it takes {MIN_IMAGES * ranks} to start, and some "
            "thousands to learn from"
        )
    preset, because = _preset(machine)
    base = configuration.load(TrainConfig, [presets.path_of(preset)], ["output=."])
    per_rank = min(base.global_batch * _memory_share(machine), num_images / (_MIN_STEPS * ranks))
    batch = _power_of_two(per_rank) * ranks
    prototypes = max(_MIN_PROTOTYPES, _nearest_power_of_two(num_images / _IMAGES_PER_PROTOTYPE))
    prototypes = min(prototypes, base.model.head.num_prototypes)
    settings: dict[str, Any] = {"global_batch": batch, "model": {"head": {"num_prototypes": prototypes}}}
    reason = f"preset {preset}, as {because}; for {num_images:,} images a batch of {batch} and {prototypes:,} prototypes"
    if base.data.executor == "dali" and not machine.has_dali:
        settings["data"] = {"executor": "cpu"}
        reason += "; the CPU makes the views, as NVIDIA DALI is not installed"
    return Fitted(preset, settings, reason)


def _preset(machine: Machine) -> tuple[str, str]:
    """Its name, and why."""
    if machine.gpu_bytes is None:
        return _CPU_PRESET, "there is no GPU to use"
    name = next(name for name, least_bytes in _GPU_PRESETS.items() if machine.gpu_bytes >= least_bytes)
    return name, f"the GPU has {machine.gpu_bytes / 1e9:.0f} GB"


def _memory_share(machine: Machine) -> float:
    """Of the smallest preset's GPU, what this one has of it; 1 where it has enough."""
    return 1.0 if machine.gpu_bytes is None else min(1.0, machine.gpu_bytes / _LARGE_ENOUGH_BYTES)


def _power_of_two(number: float) -> int:
    """The largest that is not above `number`, at least 1."""
    return 2 ** max(0, math.floor(math.log2(number)))


def _nearest_power_of_two(number: float) -> int:
    return 2 ** max(0, round(math.log2(number)))
