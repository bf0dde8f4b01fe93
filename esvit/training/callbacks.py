"""Callbacks: the user's own functions, called by training after a step or a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from esvit.state import TrainState


@dataclass(frozen=True)
class StepEvent:
    """A step has been made.

    Attributes:
        step: Steps made so far, this one included, of `num_steps`.
        epoch: The same, in epochs.
        scalars: "loss", its terms, "teacher_entropy", "feature_std" and "gradient_norm" of this rank, each a tensor []
            on the device. Reading a value, e.g. by `.item()`, waits for the device.
        state: The run: `state.networks.student`, `state.networks.teacher`, `state.optimizer`. Read only; change
            nothing.
    """

    step: int
    num_steps: int
    epoch: float
    scalars: Mapping[str, Tensor]
    state: TrainState


@dataclass(frozen=True)
class CheckpointEvent:
    """The checkpoint of `step` is completely written, at `url`."""

    step: int
    url: str


@dataclass(frozen=True)
class Callbacks:
    """Functions called in the main thread, between two steps. An exception in a callback ends the run.

    Attributes:
        on_step: Called after every step, on every rank.
        on_checkpoint: Called after a checkpoint has been written, on the main rank. A background thread writes
            checkpoints, so the run may be some steps further by then.
    """

    on_step: Callable[[StepEvent], object] | None = None
    on_checkpoint: Callable[[CheckpointEvent], object] | None = None
