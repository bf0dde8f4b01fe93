"""When checkpoints are written, by a background thread, and which of them are kept."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from esvit.checkpoints import files
from esvit.checkpoints.files import CheckpointError, Note
from pipeline.config import Config
from pipeline.store import Store


class CheckpointConfig(Config):
    """Where checkpoints go and how many are kept. The first checkpoint of a run is always kept.

    Attributes:
        url: Folder or bucket prefix; empty for `checkpoints` in the run's output folder.
        every_steps: Steps between two checkpoints; 0 for one checkpoint per epoch.
        keep_last: Number of newest checkpoints to keep.
        keep_best: Keep the checkpoint with the lowest loss (mean since the checkpoint before). Losses are comparable
            only once the teacher's temperature has stopped rising. A collapsed network has a low loss too: a checkpoint
            with signs of collapse cannot be the best.
        keep_every_epochs: Write and keep a checkpoint after every so many epochs; 0 for none.
        start_from: Checkpoint whose networks and optimiser state a new run starts from, e.g. a view-only run to
            continue with regions. Not a resume: step, schedules and order start at `start_epoch`. Parameters that the
            checkpoint lacks start fresh; the log names them.
        start_epoch: Epoch at which a run with `start_from` begins, in all schedules and in the order of samples. For a
            checkpoint of EsViT's authors, the log says how many epochs it was trained for.
        start_backbone_from: Checkpoint whose backbone a new run starts from: the teacher's, or the student's where
            there is no teacher. Position tables are resized where windows or images have another size.
        allow_start_over: Start a new run although output or checkpoint folder hold files of another, none of which is a
            checkpoint to go on from. A run that has a checkpoint goes on from it all the same.
    """

    url: str = ""
    every_steps: NonNegativeInt = 0
    keep_last: PositiveInt = 3
    keep_best: bool = True
    keep_every_epochs: NonNegativeInt = 0
    start_from: str = ""
    start_epoch: NonNegativeInt = 0
    start_backbone_from: str = ""
    allow_start_over: bool = False

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start_from and self.start_backbone_from:
            raise ValueError("start_from takes the backbone too; leave start_backbone_from out")
        if self.start_epoch and not self.start_from:
            raise ValueError("start_epoch needs start_from, the checkpoint of the run that it continues")
        return self


class Checkpointer:
    """Writes the checkpoints of one run. A context manager: leaving it waits for the checkpoint being written.

    Args:
        say: Called from the writing thread with a line per finished checkpoint.
        check: Called from the writing thread before each write; raises where another run has taken the place.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        store: Store,
        steps_per_epoch: int,
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self._config, self._say, self._check = config, say, check
        self._every_steps = config.every_steps or steps_per_epoch
        self._milestone_steps = config.keep_every_epochs * steps_per_epoch
        self._notes: dict[int, Note] = {}
        self._finished: SimpleQueue[int] = SimpleQueue()
        self._writer = ThreadPoolExecutor(1, "write-checkpoint")
        self._writing: Future[None] | None = None

    def continue_after(self, step: int) -> None:
        """Continue from the checkpoint of `step`: count the checkpoints up to it, and clear a killed writer's files."""
        files.remove_partials(self.store)
        for name in files.names(self.store):
            try:
                note = files.read_note(self.store, name)
            except CheckpointError:
                continue  # skip a damaged checkpoint; the run writes it again at that step
            if note.step <= step:
                self._notes[note.step] = note

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to write a checkpoint after `step` of `num_steps`."""
        return step % self._every_steps == 0 or step == num_steps or self._is_milestone(step)

    def save(self, state: dict[str, Any], loss: float | None = None, healthy: bool = True) -> None:
        """Copy `state` to the host and write the copy in the background; waits only for the checkpoint before.

        Raises:
            CheckpointError, StoreError: the checkpoint before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, _on_host(state), loss, healthy)

    def wait(self) -> None:
        """Wait until the newest checkpoint is completely written.

        Raises:
            CheckpointError, StoreError: that checkpoint could not be written.
        """
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def finished(self) -> list[tuple[int, str]]:
        """Step and URL of the checkpoints completed since the last call."""
        steps = [self._finished.get() for _ in range(self._finished.qsize())]
        return [(step, self._url(step)) for step in steps]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)

    def _write(self, state: dict[str, Any], loss: float | None, healthy: bool) -> None:
        note = files.write(self.store, state, loss, healthy, self._check)
        self._notes[note.step] = note
        self._check()
        for step in set(self._notes) - self._kept():
            files.delete(self.store, step)
            del self._notes[step]
        self._finished.put(note.step)
        self._say(f"saved {self._url(note.step)}")

    def _url(self, step: int) -> str:
        return f"{self.store.url}/step-{step:08d}.pt"

    def _kept(self) -> set[int]:
        steps = sorted(self._notes)
        kept = {steps[0], *steps[-self._config.keep_last :], *filter(self._is_milestone, steps)}
        ranked = [note for note in self._notes.values() if note.healthy and note.loss is not None]
        if self._config.keep_best and ranked:
            kept.add(min(ranked, key=lambda note: (note.loss, note.step)).step)
        return kept

    def _is_milestone(self, step: int) -> bool:
        return bool(self._milestone_steps) and step % self._milestone_steps == 0


def _on_host(value: Any) -> Any:
    """A copy with every tensor in host memory; the next steps do not change the copy."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    return value
