"""The order of samples: which sample at which step, as a pure function of (seed, epoch, step).

    shards, permuted for the epoch   | 7 | 2 | 9 | 0 | 4 | 1 | 8 | 3 | 5 | 6 |     one long line of samples
    cut into C lanes                 |---- lane 0 ----|---- lane 1 ----|..
    each lane shuffled in blocks     |~~~~~~~~|~~~~~~~|~~~~~~~~|~~~~~~~|..         block_shards shards per block
    step t                            ^g               ^g                          g = G / C samples of every lane
    rank r of W                       its W-th part of those G samples, in order

So all ranks together train on the same samples for every world size, every rank has the same number of steps, and the
position in a run is one integer. Memory is O(shards + one block per lane), seeking is O(1). The tail of an epoch that
does not fill a global batch (fewer than G samples) is left out. The shards are permuted anew each epoch, so the tail
holds other samples each time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.philox import Domain, permutation

_NO_BATCH = "a global batch of {} samples is too small; choose 1 or more"


ShardSizes = Sequence[int] | NDArray[np.int64]
"""Samples of each shard."""


class OrderError(UserError):
    """Batch, lanes, world size and data set do not fit together, or a saved state belongs to another order."""


class OrderConfig(Config):
    """How samples mix: over `lanes * block_shards` shards at any time. Part of the identity of a run.

    Attributes:
        lanes: Places of the data set that are read at the same time. Must divide the global batch; the default is lower
            if 8 does not divide it.
        block_shards: Length of the blocks within which a lane is shuffled.
    """

    lanes: PositiveInt = 8
    block_shards: PositiveInt = 16


class Order(ABC):
    """The interface between an order and a stream: the number of steps, and the samples of each step."""

    num_steps: int
    """Steps per epoch."""
    global_batch: int

    @abstractmethod
    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of the whole global batch, int64 [G]; rank r of W trains on `rank_slice` of it."""

    def passes(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The pass over its data set that each sample of `batch` belongs to, from 0, int64 [G].

        A sample occurs at most once per pass, so (id, pass) is the key of the random numbers of its views.
        """
        del step
        return np.full(self.global_batch, epoch)

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Whether each place of `batch` counts, bool [G]: False where the batch is padded."""
        del step
        return np.ones(self.global_batch, dtype=bool)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that distinguish this order from others of the same data and batch size."""
        return {}


def rank_slice(global_batch: int, rank: int, world_size: int) -> slice:
    """The part of every global batch that belongs to `rank`.

    Raises:
        OrderError: there is no such rank, or the world size does not divide the global batch.
    """
    if not 0 <= rank < world_size:
        raise OrderError(f"there is no rank {rank} of {world_size}: ranks count from 0")
    if global_batch % world_size:
        raise OrderError(
            f"global batch {global_batch} cannot be split evenly over {world_size} ranks; "
            "choose a batch that is a multiple of the number of ranks"
        )
    local = global_batch // world_size
    return slice(rank * local, (rank + 1) * local)


def check_batch(global_batch: int, num_samples: int, config: OrderConfig) -> None:
    """Raise `OrderError` if the batch is empty, not a multiple of the lanes, or larger than the data."""
    if global_batch < 1:
        raise OrderError(_NO_BATCH.format(global_batch))
    if global_batch % config.lanes:
        raise OrderError(
            f"global batch {global_batch} is not a multiple of order.lanes {config.lanes}; set "
            f"order.lanes to a divisor of the batch"
        )
    if num_samples < global_batch:
        raise OrderError(f"the data set has {num_samples} samples, fewer than one global batch of {global_batch}")


class Lanes:
    """A data set as C lanes of `size` samples. Each pass permutes the shards and shuffles the lanes anew.

    The id of a sample is its position in the manifest: shard by shard, 0..N-1.
    """

    def __init__(self, shard_sizes: ShardSizes, size: int, seed: int, config: OrderConfig) -> None:
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.size, self._num_lanes, self._seed = size, config.lanes, seed
        self._shard_starts = np.concatenate([[0], np.cumsum(self._sizes)])
        wanted = config.block_shards * int(self._sizes.sum()) / len(self._sizes)
        # Blocks of equal size: a small block at the end of a lane would mix badly.
        self._block_size = -(-size // max(1, round(size / wanted)))
        # The shards of two passes, and two blocks per lane, are enough for a look-ahead across a boundary.
        self._line = lru_cache(maxsize=2)(self._permute_shards)
        self._block = lru_cache(maxsize=2 * config.lanes)(self._permute_block)

    def ids(self, number: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids of the samples start..stop of every lane in pass `number`, int64 [C, stop - start]."""
        assert 0 <= start <= stop <= self.size
        lanes = [self._positions(number, lane, start, stop) for lane in range(self._num_lanes)]
        return self._ids_at(number, np.stack(lanes))

    def _positions(self, number: int, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions on the line of the pass, from one or several blocks."""
        parts = []
        for block in range(start // self._block_size, (stop - 1) // self._block_size + 1):
            first = block * self._block_size
            shuffled = self._block(number, lane, block)
            parts.append(shuffled[max(start - first, 0) : stop - first])
        return lane * self.size + np.concatenate(parts)

    def _permute_block(self, number: int, lane: int, block: int) -> NDArray[np.int64]:
        first = block * self._block_size
        size = min(self._block_size, self.size - first)
        # Lane and block share a coordinate; neither reaches 65,536 at any size that fits a disk.
        return first + permutation(self._seed, Domain.BLOCK_ORDER, size, number, (block << 16) + lane)

    def _permute_shards(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shards = permutation(self._seed, Domain.SHARD_ORDER, len(self._sizes), number)
        return shards, np.cumsum(self._sizes[shards])

    def _ids_at(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        shards, ends = self._line(number)
        place = np.searchsorted(ends, positions, side="right")
        shard = shards[place]
        within = positions - (ends[place] - self._sizes[shard])
        ids: NDArray[np.int64] = self._shard_starts[shard] + within
        return ids


class SampleOrder(Order):
    """The training order of one data set: an epoch is a pass over it."""

    def __init__(self, shard_sizes: ShardSizes, seed: int, global_batch: int, config: OrderConfig) -> None:
        self.shard_sizes, self.num_samples = shard_sizes, int(np.sum(shard_sizes))
        self.seed, self.global_batch, self.config = seed, global_batch, config
        check_batch(global_batch, self.num_samples, config)
        self.num_steps = self.num_samples // global_batch
        self._samples_per_step = global_batch // config.lanes
        self._lanes = Lanes(shard_sizes, self.num_steps * self._samples_per_step, seed, config)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of the global batch of `step` (0..num_steps-1) of `epoch`, int64 [G], lane after lane."""
        assert 0 <= step < self.num_steps
        start = step * self._samples_per_step
        return self._lanes.ids(epoch, start, start + self._samples_per_step).ravel()

    @property
    def identity(self) -> dict[str, Any]:
        """Seed and mixing."""
        return {"seed": self.seed, **self.config.model_dump()}


class SequentialOrder(Order):
    """The evaluation order: every sample once, by id. The last batch is padded; `mask` is False at the padding."""

    def __init__(self, num_samples: int, global_batch: int) -> None:
        if global_batch < 1:
            raise OrderError(_NO_BATCH.format(global_batch))
        self.num_samples, self.global_batch = num_samples, global_batch
        self.num_steps = -(-num_samples // global_batch)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of one batch, int64 [G]. Padding repeats the last id, so results stored by id stay correct."""
        del epoch
        return np.minimum(self._places(step), self.num_samples - 1)

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Whether each place of a batch counts, bool [G]: False where the last batch is padded."""
        return self._places(step) < self.num_samples

    def _places(self, step: int) -> NDArray[np.int64]:
        first = step * self.global_batch
        return np.arange(first, first + self.global_batch)
