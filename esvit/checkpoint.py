"""Checkpoints: everything that resumes a run, in one file that is there as a whole or not at all.

`step-00001200.pt` is what `torch.save` writes of `TrainState.state_dict()`, put into a folder or bucket by an atomic
replace. It is loaded with `weights_only=True`, so a checkpoint from elsewhere cannot run code.
"""

import io
import pickle
import re
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.optim import Optimizer

from esvit.losses import EsvitLoss
from esvit.models.official import load_official
from esvit.models.student_teacher import StudentTeacher
from esvit.optim import load_optimizer_state_by_name, optimizer_state_by_name
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.loader import ViewLoader
from pipeline.store import Store

_NAME = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable, or of another network."""


class CheckpointConfig(Config):
    """Where checkpoints go and how many stay.

    Attributes:
        url: Folder or bucket prefix; empty for `checkpoints` in the run's output folder.
        every_steps: Steps between two checkpoints; 0 for one an epoch.
        keep_last: How many of the newest stay.
        start_from: Checkpoint whose networks and optimiser state a new run starts from, e.g. a view-only run to
            continue with regions. Not a resume: step, schedules and order start at zero. Parameters that it lacks
            start fresh, and the log says which.
    """

    url: str = ""
    every_steps: NonNegativeInt = 0
    keep_last: PositiveInt = 3
    start_from: str = ""


@dataclass
class TrainState:
    """All that a run carries from one step to the next."""

    networks: StudentTeacher
    loss: EsvitLoss
    optimizer: Optimizer
    loader: ViewLoader
    config: dict[str, Any]
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "student": self.networks.student.state_dict(),
            "teacher": self.networks.teacher.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": optimizer_state_by_name(self.optimizer),
            "loader": self.loader.state_dict(),
            "step": self.step,
            "config": self.config,
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue exactly where `saved` was taken.

        Raises:
            CheckpointError: it is of another network.
            OrderError: it belongs to another data set or order of samples.
        """
        self.loader.load_state_dict(saved["loader"])
        self._load_networks(saved, strict=True)
        self.step = saved["step"]

    def start_from(self, saved: dict[str, Any]) -> list[str]:
        """Take over the networks, centres and optimiser state of another run; returns the names that start fresh.

        Raises:
            CheckpointError: `saved` has parameters that this network lacks, or of other shapes.
        """
        return self._load_networks(saved, strict=False)

    def _load_networks(self, saved: dict[str, Any], strict: bool) -> list[str]:
        fresh = []
        modules = {"student": self.networks.student, "teacher": self.networks.teacher, "loss": self.loss}
        for name, module in modules.items():
            try:
                missing, unexpected = module.load_state_dict(saved[name], strict=strict)
            except RuntimeError as error:
                raise CheckpointError(_first_problem(name, error)) from None
            if unexpected:
                raise CheckpointError(f"the checkpoint's {name} has '{unexpected[0]}', which this network lacks")
            fresh += [f"{name}.{key}" for key in missing]
        load_optimizer_state_by_name(self.optimizer, saved["optimizer"])
        return fresh


def _first_problem(name: str, error: RuntimeError) -> str:
    problems = [line.strip() for line in str(error).splitlines()[1:]]
    return f"the checkpoint's {name} does not fit this network: {problems[0]} ({len(problems)} problems in all)"


def save(state: TrainState, store: Store, keep_last: int) -> str:
    """Write a checkpoint, then remove all but the newest `keep_last` and the one of step 0. Returns its name."""
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    name = f"step-{state.step:08d}.pt"
    store.put(name, buffer.getvalue())
    for old in names(store)[1:-keep_last]:
        store.delete(old)
    return name


def names(store: Store) -> list[str]:
    """Checkpoints in `store`, oldest first."""
    return [name for name in store.list("step-") if _NAME.fullmatch(name)]


def load(url: str) -> dict[str, Any]:
    """Read one checkpoint, on the CPU; `url` names a file, or a folder whose newest is meant.

    A local `.pth` file is one that EsViT's authors published.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        StoreError: the store does not deliver it.
    """
    if url.endswith(".pth"):
        return load_official(url)
    folder, _, name = url.rpartition("/")
    if not _NAME.fullmatch(name):
        folder = url
        found = names(Store(folder))
        if not found:
            raise CheckpointError(f"there is no checkpoint (step-NNNNNNNN.pt) in {url}")
        name = found[-1]
    data = Store(folder or ".").read(name)
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"checkpoint {folder}/{name} cannot be read: {str(error).splitlines()[0]}") from None
    return saved
