"""ViewLoader: stream + plan + executor -> stacked views on the device, ahead of the training step.

    SampleStream ──> plan (numpy) ──> executor (threads or DALI) ──> bounded queue ──> training step
         └─ threads: fetch shards, read samples     └─ one background thread drives both

The loader's state is the stream's, counted at the training step: batches that wait in the queue are drawn again after
a resume.
"""

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from pipeline import telemetry, waiting
from pipeline.augment import BadImages, Executor, Output, Planner, build_executor, normalised
from pipeline.config import Config
from pipeline.stream import EncodedBatch, SampleStream, StreamConfig

_log = logging.getLogger(__name__)


class DataConfig(Config):
    """The data side of a run.

    Attributes:
        stream: Where the samples come from.
        executor: What renders the views: "cpu", "dali" or "reference".
        output: How views wait and travel to the device: "float32", "float16" at half the bytes and 11 bits of
            precision, or "uint8" at a quarter of the bytes, normalised on the device with the result of "float32".
        num_threads: Threads of the executor.
        queue_batches: Finished batches that may wait for the training step.
        watchdog_s: After this many seconds without a batch, and again each time, the log says what is waited for.
    """

    stream: StreamConfig
    executor: str = "cpu"
    output: Output = "float32"
    num_threads: PositiveInt = 4
    queue_batches: PositiveInt = 2
    watchdog_s: PositiveFloat = 60.0


@dataclass(frozen=True)
class ViewBatch:
    """What a step trains on. B samples of this rank, V views a group."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    mask: NDArray[np.bool_]  # [B], False where an evaluation's last batch is filled up
    labels: torch.Tensor  # int64 [B], see EncodedBatch
    views: list[torch.Tensor]  # one a group of equal sizes: float32 [V, B, 3, H, W], normalised
    num_encoded_bytes: int


class ViewLoader:
    """Iterate over the batches of one rank, for ever. Use as a context manager, or call `close`."""

    def __init__(
        self,
        stream: SampleStream,
        planner: Planner,
        executor: Executor,
        device: torch.device,
        queue_batches: int = 2,
        watchdog_s: float = 60.0,
    ) -> None:
        self._stream, self._planner, self._executor, self._device = stream, planner, executor, device
        self._queue_batches, self._watchdog_s = queue_batches, watchdog_s
        self._position = stream.position
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data."""
        return self._stream.steps_per_epoch

    @property
    def num_samples(self) -> int:
        """Samples of all data sets."""
        return self._stream.num_samples

    def state_dict(self) -> dict[str, Any]:
        """Where the training step stands: a few integers."""
        return self._stream.state_dict(self._position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`. Call before iterating.

        Raises:
            OrderError: the state belongs to another data set or order.
        """
        assert self._thread is None, "load the state before iterating"
        self._stream.load_state_dict(state_dict)
        self._position = self._stream.position

    def __iter__(self) -> Iterator[ViewBatch]:
        assert self._thread is None, "one iteration at a time"
        results: queue.Queue[ViewBatch | BaseException] = queue.Queue(self._queue_batches)
        self._thread = threading.Thread(target=self._produce, args=(results,), name="view-loader", daemon=True)
        self._thread.start()
        while True:
            telemetry.LOADER_QUEUE_BATCHES.set(results.qsize())
            begin = time.perf_counter()
            item = self._wait(results)
            telemetry.LOADER_WAIT_SECONDS.observe(time.perf_counter() - begin)
            if isinstance(item, BaseException):
                raise item
            telemetry.LOADER_SAMPLES.inc(len(item.ids))
            telemetry.LOADER_BYTES.inc(item.num_encoded_bytes)
            self._position += 1
            yield item

    def _wait(self, results: "queue.Queue[ViewBatch | BaseException]") -> "ViewBatch | BaseException":
        """The next batch; while it does not come, say what everyone waits for."""
        begin_s = time.monotonic()
        while True:
            try:
                return results.get(timeout=self._watchdog_s)
            except queue.Empty:
                _log.warning(
                    "rank %d has had no batch for %.0f s; under way: %s",
                    self._stream.rank,
                    time.monotonic() - begin_s,
                    waiting.describe(),
                )

    def close(self) -> None:
        """Stop the background thread and release the executor."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _produce(self, results: "queue.Queue[ViewBatch | BaseException]") -> None:
        encoded_batches = iter(self._stream)
        try:
            rendered = render(encoded_batches, self._planner, self._executor, self._stream.neighbour)
            for batch in map(self._deliver, rendered):
                if not _put(results, batch, self._stop):
                    return
                del batch  # or the next would be made beside it, in memory of its own
        except BaseException as error:
            _put(results, error, self._stop)
        finally:
            encoded_batches.close()  # type: ignore[attr-defined]

    def _deliver(self, rendered: "Rendered") -> ViewBatch:
        views, encoded = rendered
        return ViewBatch(
            epoch=encoded.epoch,
            step=encoded.step,
            ids=encoded.ids,
            mask=encoded.mask,
            labels=torch.from_numpy(encoded.labels.astype(np.int64)).to(self._device),
            views=[normalised(group.to(self._device, non_blocking=True)) for group in views],
            num_encoded_bytes=sum(map(len, encoded.images)),
        )


Neighbour = Callable[[int, str], EncodedBatch]
Rendered = tuple[list[torch.Tensor], EncodedBatch]


def render(
    batches: Iterable[EncodedBatch], planner: Planner, executor: Executor, neighbour: Neighbour
) -> Iterator[Rendered]:
    """Views of each batch, undecodable images replaced by their `neighbour`, and the batch so changed.

    While the caller works on the views of one batch, the executor is at those of the next, if it can: nothing is made
    ahead of the last.
    """
    under_way: deque[_Rendering] = deque()
    for encoded in batches:
        under_way.append(_Rendering(encoded, planner, executor, neighbour))
        if len(under_way) > executor.batches_ahead:
            yield under_way.popleft().finish()
    while under_way:
        yield under_way.popleft().finish()


class _Rendering:
    """A batch under way. Both steps end because `neighbour` raises when its budget is spent."""

    def __init__(self, batch: EncodedBatch, planner: Planner, executor: Executor, neighbour: Neighbour) -> None:
        self._batch, self._planner, self._executor, self._neighbour = batch, planner, executor, neighbour
        self._seconds = 0.0
        with self._at_work():
            self._views = self._start()

    def finish(self) -> Rendered:
        """Wait for the views."""
        with self._at_work():
            views = self._wait()
        telemetry.LOADER_AUGMENT_SECONDS.observe(self._seconds)
        return views, self._batch

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        begin = time.perf_counter()
        with waiting.phase(f"views of step {self._batch.step}"):
            yield
        self._seconds += time.perf_counter() - begin

    def _wait(self) -> list[torch.Tensor]:
        while True:
            try:
                return self._views()
            except BadImages as bad:
                self._replace(bad)
                self._views = self._start()

    def _start(self) -> Callable[[], list[torch.Tensor]]:
        while True:
            batch = self._batch
            plan = self._planner(batch.passes, batch.ids, batch.heights, batch.widths, batch.orientations)
            try:
                return self._executor.start(batch.images, plan)
            except BadImages as bad:
                self._replace(bad)

    def _replace(self, bad: BadImages) -> None:
        ids = self._batch.ids
        substitutes = {b: self._neighbour(int(ids[b]), reason) for b, reason in bad.reasons.items()}
        self._batch = _replace_samples(self._batch, substitutes)


def _replace_samples(batch: EncodedBatch, substitutes: dict[int, EncodedBatch]) -> EncodedBatch:
    images = list(batch.images)
    columns = {name: getattr(batch, name).copy() for name in ("ids", "labels", "heights", "widths", "orientations")}
    for b, substitute in substitutes.items():
        images[b] = substitute.images[0]
        for name, column in columns.items():
            column[b] = getattr(substitute, name)[0]
    return replace(batch, images=images, **columns)


def _put(results: "queue.Queue[Any]", item: object, stop: threading.Event) -> bool:
    """Put, unless the consumer has gone; False then."""
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def open_loader(stream: SampleStream, planner: Planner, config: DataConfig, device: torch.device) -> ViewLoader:
    """A loader as `config` describes it."""
    executor = build_executor(config.executor, config.num_threads, device, config.output)
    return ViewLoader(stream, planner, executor, device, config.queue_batches, config.watchdog_s)
