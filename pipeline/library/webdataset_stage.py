"""A first stage for pipelines of the `webdataset` package: samples in exact order, from the fault-tolerant store.

    source = WebdatasetSource(url, global_batch=256, seed=0)
    stages = wds.decode("rgb"), wds.to_tuple("jpg;png;webp", "cls"), wds.batched(source.batch_size)
    loader = wds.WebLoader(wds.DataPipeline(source, *stages), batch_size=None, num_workers=4)

A step is `batch_size` samples in a row. Worker process w of W yields the steps w, w + W, w + 2 W, ... A `DataLoader`
takes one batch of each worker in turn. So the batches come in the same order with any number of workers, provided that
the stages make one batch of each step. Stages that shuffle, or drop samples, mix the samples of several steps.

Without worker processes each loop continues where the last loop ended. Worker processes have copies of the source, so
the source in the main process does not know the position of the training loop. Then call `set_epoch` or
`load_state_dict` before each loop. A second loop from the same place is refused.
"""

import json
import sys
from collections.abc import Generator
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

from pipeline.format.tar import TarSample
from pipeline.library.defaults import stream_config
from pipeline.loops import IterationError, Loops
from pipeline.order import OrderError
from pipeline.stream import SampleStream, StreamConfig, open_training_stream

_MAX_WORKERS = 256


class WebdatasetSource:
    """Yields dicts of bytes, as webdataset's own first stages do. Iterate over it, or put it first in a `DataPipeline`.

    A dict has "__key__"; "__url__" of the tar; the image under "jpg", "png" or "webp"; the label under "cls" (a
    number), or under "json" in a multi-label data set; and "meta.json" if the build kept metadata. In an unlabelled
    data set there is no label.
    """

    def __init__(
        self,
        data: str | StreamConfig,
        global_batch: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """`data` is a URL, a folder, or a config. For the default `rank`, see `pipeline.stream.ranks`.

        Raises:
            ManifestError, StoreError: there is no readable manifest.
            OrderError: batch, lanes and ranks do not fit, or a data set is too small.
        """
        self._config, self._seed, self._global_batch = stream_config(data, global_batch), seed, global_batch
        self._stream: SampleStream | None = open_training_stream(self._config, seed, global_batch, rank, world_size)
        self._rank, self._world_size = self._stream.rank, self._stream.world_size
        self.steps_per_epoch = self._stream.steps_per_epoch
        self._progress, self._loops = _Progress(), Loops("source")

    @property
    def batch_size(self) -> int:
        """Samples of this rank in one step."""
        return self._global_batch // self._world_size

    @property
    def epoch(self) -> int:
        """The epoch in which the next loop begins."""
        return self._progress.position // self.steps_per_epoch

    def __iter__(self) -> Generator[dict[str, Any]]:
        """The rest of the epoch: samples of this rank, or of this worker process. Raises as `SampleStream`."""
        worker = _worker()
        if worker is None:
            return self._samples()
        return self._samples_of_worker(*worker)

    __call__ = __iter__  # webdataset calls stages that are not its own classes

    def set_epoch(self, epoch: int) -> None:
        """Begin the next loop at the start of `epoch`.

        Raises:
            OrderError: `epoch` is not a whole number from 0 on.
        """
        if type(epoch) is not int or epoch < 0:
            raise OrderError(f"{epoch!r} is not an epoch; give a whole number from 0 on")
        self.load_state_dict({**self._main_stream().state_dict(0), "position": epoch * self.steps_per_epoch})

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """The state after `position` steps of the run (default: the steps yielded so far).

        Raises:
            IterationError: there are worker processes, and `position` is missing.
            OrderError: `position` is not a number of steps.
        """
        if position is None and self._progress.is_in_workers:
            raise IterationError(
                "worker processes read ahead, so the source does not know the position of the training loop; "
                "give the number of steps taken since the run began: state_dict(position)"
            )
        return self._main_stream().state_dict(self._progress.position if position is None else position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next loop where `state_dict` was taken.

        Raises:
            OrderError: this is not a state, or it belongs to another data set or order.
        """
        stream = self._main_stream()
        stream.load_state_dict(state_dict)
        self._loops.end_all()
        self._progress.restart(stream.position)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes that are not forked."""
        if get_spawning_popen() is None:
            self._loops.refuse_copy()
        return {**self.__dict__, "_stream": None}

    def _main_stream(self) -> SampleStream:
        if self._stream is None:  # in a worker process that did not inherit it
            self._stream = self._open()
        return self._stream

    def _open(self) -> SampleStream:
        return open_training_stream(self._config, self._seed, self._global_batch, self._rank, self._world_size)

    def _samples(self) -> Generator[dict[str, Any]]:
        loop = self._loops.begin()
        stream, progress = self._main_stream(), self._progress
        stream.position = progress.position
        for step in stream.whole_samples(self._stop(), 1):
            for num_left, found in zip(range(len(step))[::-1], step, strict=True):
                progress.position += not num_left  # before the last yield: a batching stage does not ask again
                yield _as_dict(found)
                self._loops.check(loop)

    def _samples_of_worker(self, worker: int, num_workers: int) -> Generator[dict[str, Any]]:
        self._progress.begin_in_worker(worker)
        stream = self._open()
        stream.position = self._progress.position + worker
        for step in stream.whole_samples(self._stop(), num_workers):
            yield from map(_as_dict, step)

    def _stop(self) -> int:
        return (self.epoch + 1) * self.steps_per_epoch


class _Progress:
    """Where the next loop begins, and which workers have begun it, in memory that all processes share.

    Only worker i writes slot i, so no lock is needed. `_own_loop` is not shared: the copy in a worker process has the
    number of the loop for which that process was started. A process that starts late may find that the loop has ended.
    """

    def __init__(self) -> None:
        self._shared = RawArray("q", 2 + _MAX_WORKERS)
        self._own_loop: int | None = None
        self.restart(0)

    @property
    def position(self) -> int:
        return int(self._shared[0])

    @position.setter
    def position(self, position: int) -> None:
        self._shared[0] = position

    @property
    def is_in_workers(self) -> bool:
        """Whether worker processes have begun since the last `restart`."""
        return self._shared[1] in self._shared[2:]

    def restart(self, position: int) -> None:
        """Begin the next loop at `position`."""
        self._shared[0] = position
        self._shared[1] += 1  # a new number: no worker has begun this loop
        self._own_loop = self._shared[1]

    def begin_in_worker(self, worker: int) -> None:
        """Raise `IterationError` if this worker number has begun this loop before, in this or another process.

        Raise it too in a process that was started for an earlier loop, and has not begun that one.
        """
        if worker >= _MAX_WORKERS:
            raise IterationError(f"the source works with at most {_MAX_WORKERS} worker processes; lower num_workers")
        own_loop, self._own_loop = self._own_loop, None  # a process that is kept for later loops begins each of them
        if own_loop not in (None, self._shared[1]):
            raise IterationError("the loop of this worker process has ended, because a state was loaded")
        if self._shared[2 + worker] == self._shared[1]:
            raise IterationError(
                "worker processes have read from this position before and would repeat the samples; before each loop "
                "call source.set_epoch(epoch) or source.load_state_dict(state)"
            )
        self._shared[2 + worker] = self._shared[1]


def _as_dict(found: tuple[str, TarSample]) -> dict[str, Any]:
    url, sample = found
    label = {}
    if isinstance(sample.label, int):
        label = {"cls": str(sample.label).encode()}
    elif sample.label is not None:
        label = {"json": json.dumps({"labels": sample.label}).encode()}
    metadata = {"meta.json": sample.metadata} if sample.metadata else {}
    return {"__key__": sample.key, "__url__": url, **label, **metadata, sample.ext: sample.image}


def _worker() -> tuple[int, int] | None:
    """Number of this worker process of a torch `DataLoader`, and number of workers; None in other processes."""
    module = sys.modules.get("torch.utils.data")  # not imported: a worker process has imported it already
    info = module.get_worker_info() if module is not None else None
    return (info.id, info.num_workers) if info is not None else None
