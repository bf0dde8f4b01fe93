"""ViewLoader: stacked views on the device, ahead of the training step.

    SampleStream ──> plan (numpy) ──> executor (threads or DALI) ──> bounded queue ──> training step
         └─ threads: fetch shards, read samples     └─ one background thread drives both

The loader's state is the stream's state at the training step. Batches still in the queue are made again after a resume.
The docstring of `pipeline` describes the whole data path.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch.utils.data import IterableDataset

from pipeline import telemetry, waiting
from pipeline.augment import Executor, Output, Planner, build_executor, normalised
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.loader.ahead import Ahead
from pipeline.loader.rendering import Rendered, render
from pipeline.loops import IterationError, Loops
from pipeline.stream import SampleStream, StreamConfig
from pipeline.stream.encoded import ReadKeys

Transform = Callable[[list[torch.Tensor]], list[torch.Tensor]]
"""Own augmentation: a function from the stacked views of a batch, on the device, to new ones."""

_ASK_EVERY_S = 0.5

_log = logging.getLogger(__name__)


class TransformError(UserError):
    """A transform does not return a list of views."""


class DataConfig(Config):
    """The data side of a run.

    Attributes:
        stream: Where the samples come from.
        executor: The executor that renders the views: "cpu", "dali" or "reference".
        output: Type of the views in the queue and on the way to the device: "float32"; "float16", with half the bytes
            and 11 bits of precision; or "uint8", with a quarter of the bytes and the same result as "float32".
        num_threads: Threads of the executor.
        queue_batches: Finished batches that may wait for the training step.
        watchdog_s: Time without a batch after which the log names the work in progress; repeated at this interval.
    """

    stream: StreamConfig
    executor: str = "cpu"
    output: Output = "float32"
    num_threads: PositiveInt = 4
    queue_batches: PositiveInt = 2
    watchdog_s: PositiveFloat = 60.0


@dataclass(frozen=True)
class ViewBatch:
    """The data of one training step: B samples of this rank, V views per group."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    data_sets: NDArray[np.int64]  # [B], the number of each sample's data set in `StreamConfig.sources`
    mask: NDArray[np.bool_]  # [B], False where an evaluation's last batch is padded
    labels: torch.Tensor  # int64 [B], see EncodedBatch
    views: list[torch.Tensor]  # one per group of equal sizes: float32 [V, B, 3, H, W], normalised
    num_encoded_bytes: int
    read_keys: ReadKeys = field(repr=False)

    @cached_property
    def keys(self) -> list[str]:
        """The keys [B], read from the shards at first use, so they cost nothing otherwise."""
        return self.read_keys(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy with its tensors on `device`, as `torch.Tensor.to`."""
        labels, *views = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.labels, *self.views))
        return replace(self, labels=labels, views=views)

    def __getstate__(self) -> dict[str, Any]:
        """A pickled batch contains its keys, since another process cannot use these open shards."""
        keys = dict(zip(self.ids.tolist(), self.keys, strict=True))
        return {**self.__dict__, "read_keys": partial(_look_up, keys)}


class ViewLoader(IterableDataset[ViewBatch]):
    """The batches of one rank: `for batch in loader` runs one epoch, see `__iter__`.

    Use it as a context manager, or call `close`. For torch it is an `IterableDataset` of whole batches, so
    `DataLoader(loader, batch_size=None)` and torchdata's `StatefulDataLoader` accept it, without worker processes.
    """

    def __init__(
        self,
        stream: SampleStream,
        planner: Planner,
        executor: Executor,
        device: torch.device,
        queue_batches: int = 2,
        watchdog_s: float = 60.0,
        transform: Transform | None = None,
    ) -> None:
        """`transform` runs in the background thread, ahead of the training step."""
        self._stream, self._executor = stream, executor
        self._queue_batches, self._watchdog_s = queue_batches, watchdog_s
        # The background thread must not refer to the loader, or the loader would never be garbage-collected.
        self._make = partial(_batches, stream, planner, executor, partial(_deliver, device, transform))
        self._position = stream.position
        self._loops = Loops("loader")
        self._ahead: Ahead[ViewBatch] | None = None
        self._is_closed = False

    @property
    def stream(self) -> SampleStream:
        """The source of the samples. Its position is that of the background thread, ahead of the loader's position."""
        return self._stream

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data."""
        return self._stream.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._position // self._stream.steps_per_epoch

    @property
    def num_samples(self) -> int:
        """Samples of all data sets."""
        return self._stream.num_samples

    def state_dict(self) -> dict[str, Any]:
        """The position of the training step and the identity of the order, as plain values."""
        return self._stream.state_dict(self._position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next loop at `state_dict`; loops that have begun are ended.

        Raises:
            OrderError: this is not a state, or it belongs to another data set or order.
        """
        position = self._stream.read_state(state_dict)
        self._loops.end_all()
        self._halt()
        self._position = position

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self._stream.steps_per_epoch

    def __iter__(self) -> Generator[ViewBatch]:
        """One epoch, or its rest if a loop was left or a state was loaded within the epoch.

        A loop may be left anywhere; the next loop continues with the next batch. Batches that are already made are kept
        between two loops.

        Raises:
            IterationError: another loop has begun, another process opened the loader, or the loader is closed.
        """
        return self._run(endless=False, until=lambda: False)

    def forever(self, until: Callable[[], bool] = lambda: False) -> Generator[ViewBatch]:
        """As a loop over the loader, but one epoch after another, without end.

        `until` is asked at least every `_ASK_EVERY_S` seconds while no batch is there. If true, the loop ends.
        """
        return self._run(endless=True, until=until)

    def _run(self, endless: bool, until: Callable[[], bool]) -> Generator[ViewBatch]:
        loop, epoch = self._loops.begin(), self.epoch
        while endless or self.epoch == epoch:
            batch = self._next(until)
            if batch is None:
                return
            yield batch
            self._loops.check(loop)

    def _next(self, until: Callable[[], bool]) -> ViewBatch | None:
        if self._is_closed:
            raise IterationError("this loader is closed; open a new one")
        if self._ahead is None:
            self._stream.position = self._position
            self._ahead = Ahead(self._make, self._queue_batches, "view-loader")
        telemetry.LOADER_QUEUE_BATCHES.set(len(self._ahead))
        begin = time.perf_counter()
        try:
            batch = self._wait(self._ahead, until)
        except BaseException:  # also Ctrl-C: the batch may have left the queue, so it is made again
            self._halt()
            raise
        if batch is None:
            return None
        telemetry.LOADER_WAIT_SECONDS.observe(time.perf_counter() - begin)
        telemetry.LOADER_SAMPLES.inc(len(batch.ids))
        telemetry.LOADER_BYTES.inc(batch.num_encoded_bytes)
        self._position += 1
        return batch

    def _wait(self, ahead: Ahead[ViewBatch], until: Callable[[], bool]) -> ViewBatch | None:
        """The next batch; None if `until()`. While none comes, log the work in progress every `watchdog_s` seconds."""
        begin_s = logged_s = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                return ahead.get(min(self._watchdog_s, _ASK_EVERY_S))
            if until():
                return None
            if (now_s := time.monotonic()) - logged_s >= self._watchdog_s:
                logged_s = now_s
                what = f"rank {self._stream.rank} has had no batch for {now_s - begin_s:.0f} s"
                _log.warning("%s; in progress: %s", what, waiting.describe())

    def _halt(self) -> None:
        """End the background thread and drop its batches."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def close(self) -> None:
        """End the background thread and release the executor."""
        self._is_closed = True
        self._halt()
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        self._loops.refuse_copy()


def _batches(
    stream: SampleStream, planner: Planner, executor: Executor, deliver: Callable[[Rendered], ViewBatch]
) -> Generator[ViewBatch]:
    """The batches of the stream from its current position, without end."""
    encoded = stream.forever()
    try:
        yield from map(deliver, render(encoded, planner, executor, stream.neighbour))
    finally:
        encoded.close()


def _deliver(device: torch.device, transform: Transform | None, rendered: Rendered) -> ViewBatch:
    """The batch for the training step: views on the device, normalised, transformed."""
    stacks, encoded = rendered
    views = [normalised(stack.to(device, non_blocking=True)) for stack in stacks]
    if transform is not None:
        views = transform(views)
        if not isinstance(views, list) or not all(isinstance(stack, torch.Tensor) for stack in views):
            raise TransformError(
                f"the transform returned {type(views).__name__}; it must return a list of the stacked views, "
                "even if it changes them in place"
            )
    return ViewBatch(
        epoch=encoded.epoch,
        step=encoded.step,
        ids=encoded.ids,
        data_sets=encoded.data_sets,
        mask=encoded.mask,
        labels=torch.from_numpy(encoded.labels.astype(np.int64)).to(device),
        views=views,
        num_encoded_bytes=sum(map(len, encoded.images)),
        read_keys=encoded.read_keys,
    )


def _look_up(keys: dict[int, str], ids: NDArray[np.int64]) -> list[str]:
    return [keys[i] for i in ids.tolist()]


def open_loader(
    stream: SampleStream,
    planner: Planner,
    config: DataConfig,
    device: torch.device,
    transform: Transform | None = None,
) -> ViewLoader:
    """A loader as `config` describes it.

    Raises:
        ExecutorError: there is no such executor, or it cannot run on this machine.
    """
    executor = build_executor(config.executor, config.num_threads, device, config.output)
    return ViewLoader(stream, planner, executor, device, config.queue_batches, config.watchdog_s, transform)
