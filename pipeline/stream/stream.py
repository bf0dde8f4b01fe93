"""Manifests -> order -> shards -> encoded samples: a stream that is a pure function of its position.

One `EncodedBatch` per step. The state is a position and the identity of the order; it counts batches yielded, not
batches read ahead. Another data set or order refuses it. The docstring of `pipeline` describes the whole data path.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.format.tar import TarSample
from pipeline.loops import Loops
from pipeline.order import MixtureOrder, Order, SampleOrder, SequentialOrder, rank_slice
from pipeline.order.saved import check_position, read_position
from pipeline.prefetch import prefetch
from pipeline.shards.data_sets import DataSet, JoinedDataSets, open_data_set
from pipeline.shards.samples import SampleReader
from pipeline.shards.window import ShardWindow
from pipeline.stream.bad_samples import BadSamples
from pipeline.stream.config import StreamConfig
from pipeline.stream.encoded import EncodedBatch
from pipeline.stream.ranks import find_ranks

T = TypeVar("T")
Begin = Callable[[int], Callable[[], T]]
"""Begins to read the step at a position; the function returned waits for it."""


class SampleStream:
    """Encoded batches of one rank, in order, resumable. `for batch in stream` runs one epoch, see `__iter__`."""

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        order: Order,
        config: StreamConfig,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """For the defaults of `rank` and `world_size`, see `pipeline.stream.ranks`.

        Raises:
            OrderError: there is no such rank, or the ranks do not divide the batch.
        """
        self.order, self.config = order, config
        self._ranks = find_ranks(rank, world_size)
        self.rank, self.world_size, _ = self._ranks
        self._slice = rank_slice(order.global_batch, self.rank, self.world_size)
        self._cache = JoinedDataSets(data_sets, config.cache)
        self._reader = SampleReader(self._cache, np.diff(self._cache.shard_starts))
        self._bad = BadSamples(self._cache, config.max_bad_fraction)
        self._loops = Loops("stream")
        self.position = 0

    @property
    def data_sets(self) -> Sequence[DataSet]:
        """The data sets of the stream."""
        return self._cache.parts

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch, the same on every rank: one pass over the data, or as many samples as a mixture has."""
        return self.order.num_steps

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.position // self.order.num_steps

    @property
    def num_samples(self) -> int:
        """Samples of all data sets."""
        return self._cache.num_samples

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self.order.num_steps

    def __iter__(self) -> Generator[EncodedBatch]:
        """One epoch, or its rest if a loop was left or a state was loaded within the epoch.

        A loop may be left anywhere; the next loop continues with the next batch.

        Raises:
            IterationError: another loop has begun, or another process opened the stream.
        """
        return self._run(self._begin, self._end_of_epoch)

    def forever(self) -> Generator[EncodedBatch]:
        """As a loop over the stream, but one epoch after another, without end."""
        return self._run(self._begin, lambda: math.inf)

    def whole_samples(self, stop: int, stride: int) -> Generator[list[tuple[str, TarSample]]]:
        """Every `stride`-th step before position `stop`: for each sample, the URL of its tar and the whole sample."""
        return self._run(self._begin_whole, lambda: stop, stride)

    def _end_of_epoch(self) -> int:
        return (self.epoch + 1) * self.order.num_steps

    def _run(self, begin: Begin[T], find_stop: Callable[[], float], stride: int = 1) -> Generator[T]:
        loop, stop = self._loops.begin(), find_stop()  # a generator: this runs at the first `next`
        self._ranks.check()
        if self.position >= stop:
            return
        positions = self._with_shards_ahead(itertools.count(self.position, stride))
        num_threads, look_ahead = self.config.num_threads, self.config.sample_look_ahead_steps
        is_stored = self._cache.is_stored
        for begun in prefetch(begin, positions, num_threads, look_ahead, "read-samples", lambda _position: is_stored):
            item = begun()
            self.position += stride
            yield item
            del item
            self._loops.check(loop)
            if self.position >= stop:
                return

    def __reduce__(self) -> NoReturn:
        self._loops.refuse_copy()

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """The state after `position` steps (default: the steps yielded so far).

        Raises:
            OrderError: `position` is not a number of steps.
        """
        position = self.position if position is None else position
        return {**self._identity(), "position": check_position(position, self.order.num_steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next loop where `state_dict` was taken; loops that have begun are ended.

        Raises:
            OrderError: this is not a state, or it belongs to another data set, seed, batch size or mixing.
        """
        self.position = self.read_state(state_dict)
        self._loops.end_all()

    def read_state(self, state_dict: dict[str, Any]) -> int:
        """The position in a state of this stream; raises as `load_state_dict`."""
        return read_position(state_dict, self._identity(), self.order.num_steps)

    def neighbour(self, sample_id: int, reason: str) -> EncodedBatch:
        """The replacement of an undecodable sample, as a batch of one: the next sample. `reason` is for the log.

        Raises:
            TooManyBadSamples: more than `max_bad_fraction` of the images, or all of them, cannot be decoded.
        """
        substitute = np.array([self._bad.substitute(sample_id, reason)])
        return self._begin_batch(0, 0, substitute, np.zeros(1, np.int64), np.ones(1, bool))()

    def _identity(self) -> dict[str, Any]:
        return {
            "manifest_digest": "+".join(part.manifest.digest for part in self._cache.parts),
            "global_batch": self.order.global_batch,
            **self.order.identity,
        }

    def _local_ids(self, position: int) -> NDArray[np.int64]:
        epoch, step = divmod(position, self.order.num_steps)
        return self.order.batch(epoch, step)[self._slice]

    def _with_shards_ahead(self, positions: Iterator[int]) -> Iterator[int]:
        """Yield each of the endless `positions` once the shards of its step are in the cache."""

        def steps() -> Iterator[tuple[int, list[int]]]:
            for here in positions:
                yield here, np.unique(self._cache.shard_of(self._local_ids(here))).tolist()

        config = self.config
        window = ShardWindow(
            self._cache, config.shard_look_ahead_bytes, config.num_threads, config.sample_look_ahead_steps + 1
        )
        return window.positions(steps())

    def _begin_whole(self, position: int) -> Callable[[], list[tuple[str, TarSample]]]:
        ids = self._local_ids(position)
        samples = list(zip(map(self._cache.url_of, ids.tolist()), self._reader.samples(ids), strict=True))
        return lambda: samples

    def _begin(self, position: int) -> Callable[[], EncodedBatch]:
        epoch, step = divmod(position, self.order.num_steps)
        passes, mask = self.order.passes(epoch, step)[self._slice], self.order.mask(step)[self._slice]
        return self._begin_batch(epoch, step, self._local_ids(position), passes, mask)

    def _begin_batch(
        self, epoch: int, step: int, ids: NDArray[np.int64], passes: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> Callable[[], EncodedBatch]:
        located = self._reader.locate(ids)
        table, images = located.table, self._reader.begin_images(located)
        return lambda: EncodedBatch(
            epoch=epoch,
            step=step,
            ids=ids,
            data_sets=self._cache.part_of(ids),
            passes=passes,
            mask=mask,
            labels=table["label"].astype(np.int32),
            heights=table["height"].astype(np.int64),
            widths=table["width"].astype(np.int64),
            orientations=table["orientation"].astype(np.int64),
            images=images(),
            read_keys=self._reader.keys,
        )


def open_training_stream(
    config: StreamConfig, seed: int, global_batch: int, rank: int | None = None, world_size: int | None = None
) -> SampleStream:
    """The shuffled stream of a training run.

    Raises:
        ManifestError, StoreError: there is no readable manifest at one of `config.sources`.
        OrderError: batch, lanes and ranks do not fit, or a data set is too small.
    """
    data_sets = [open_data_set(source.url) for source in config.sources]
    sizes = [data_set.shard_sizes for data_set in data_sets]
    order: Order
    if len(data_sets) == 1:
        order = SampleOrder(sizes[0], seed, global_batch, config.order)
    else:
        weights = [source.weight for source in config.sources]
        order = MixtureOrder(sizes, weights, seed, global_batch, config.order)
    return SampleStream(data_sets, order, config, rank, world_size)


def open_sequential_stream(
    config: StreamConfig, global_batch: int, rank: int | None = None, world_size: int | None = None
) -> SampleStream:
    """The stream of an evaluation: every sample once, by id. Batches are no larger than the data; see `mask`.

    Raises:
        ManifestError, StoreError: there is no readable manifest at one of `config.sources`.
        OrderError: batch and ranks do not fit.
    """
    data_sets = [open_data_set(source.url) for source in config.sources]
    num_samples = sum(data_set.manifest.num_samples for data_set in data_sets)
    num_ranks = find_ranks(rank, world_size).world_size
    order = SequentialOrder(num_samples, min(global_batch, -(-num_samples // num_ranks) * num_ranks))
    return SampleStream(data_sets, order, config, rank, world_size)
