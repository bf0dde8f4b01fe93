"""The seam for one's own code in a run: functions that training calls with what has just happened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from esvit.state import TrainState


@dataclass(frozen=True)
class StepEvent:
    """A step has been made.

    Attributes:
        step: Steps made so far, this one included, of `num_steps`.
        epoch: The same in epochs.
        scalars: "loss", its terms, "teacher_entropy", "feature_std" and "gradient_norm" of this rank, each a tensor []
            on the device. Reading a value, as `.item()` does, waits for the device.
        state: The run itself: `state.networks.student`, `state.networks.teacher`, `state.optimizer`. To look at.
    """

    step: int
    num_steps: int
    epoch: float
    scalars: Mapping[str, Tensor]
    state: TrainState


@dataclass(frozen=True)
class CheckpointEvent:
    """The checkpoint of `step` is safe: the whole file is at `url`."""

    step: int
    url: str


@dataclass(frozen=True)
class Callbacks:
    """What to call, all in the main thread between two steps. An exception in one of them ends the run.

    Attributes:
        on_step: After every step, on every rank.
        on_checkpoint: After a checkpoint has been written, on the main rank. Checkpoints are written beside the
            training, so by then the run may be some steps further.
    """

    on_step: Callable[[StepEvent], object] | None = None
    on_checkpoint: Callable[[CheckpointEvent], object] | None = None
