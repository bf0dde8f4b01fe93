"""Sample order: which sample is trained on at which step, as a pure function of (seed, epoch, step).

    shards, permuted for the epoch   | 7 | 2 | 9 | 0 | 4 | 1 | 8 | 3 | 5 | 6 |     one long line of samples
    cut into C lanes                 |---- lane 0 ----|---- lane 1 ----|..
    each lane shuffled in blocks     |~~~~~~~~|~~~~~~~|~~~~~~~~|~~~~~~~|..         block_shards shards a block
    step t                            ^g               ^g                          g = G / C samples of every lane
    rank r of W                       its W-th part of those G samples, in order

The union over the ranks of a step is therefore the same list for every world size, every rank has the same number
of steps, and the position in a run is one integer. Memory is O(shards + one block a lane), seeking is O(1).
The tail of an epoch that does not fill a global batch (fewer than G samples) is left out; as the shards are
permuted anew, it is another tail each epoch.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.philox import Domain, permutation


class OrderError(UserError):
    """Batch, lanes, world size and data set do not fit each other, or a saved position belongs to another order."""


class OrderConfig(Config):
    """How samples mix: over `lanes * block_shards` shards at any time. Part of a run's identity."""

    lanes: PositiveInt = 8
    block_shards: PositiveInt = 16


class Order(Protocol):
    """What a stream needs to know: steps, and the sample ids of each."""

    num_steps: int
    global_batch: int

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of the whole global batch, int64 [G]; rank r of W trains on `rank_slice` of it."""
        ...


def rank_slice(global_batch: int, rank: int, world_size: int) -> slice:
    """The part of every global batch that belongs to `rank`.

    Raises:
        OrderError: the world size does not divide the global batch.
    """
    if global_batch % world_size:
        raise OrderError(
            f"global batch {global_batch} cannot be split evenly over {world_size} ranks; "
            "choose a batch that is a multiple of the number of ranks"
        )
    local = global_batch // world_size
    return slice(rank * local, (rank + 1) * local)


class SampleOrder:
    """The training order. A sample's id is its position in the manifest: shard by shard, 0..N-1."""

    def __init__(self, shard_sizes: Sequence[int], seed: int, global_batch: int, config: OrderConfig) -> None:
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.seed, self.global_batch, self.config = seed, global_batch, config
        self.num_samples = int(sizes.sum())
        self.num_steps = self.num_samples // global_batch
        if global_batch % config.lanes:
            raise OrderError(
                f"global batch {global_batch} is not a multiple of order.lanes {config.lanes}; set "
                f"order.lanes to a divisor of the batch"
            )
        if not self.num_steps:
            raise OrderError(
                f"the data set has {self.num_samples} samples, fewer than one global batch of {global_batch}"
            )
        self._sizes = sizes
        self._shard_starts = np.concatenate([[0], np.cumsum(sizes)])
        self._samples_per_step = global_batch // config.lanes
        self._lane_size = self.num_steps * self._samples_per_step
        wanted = config.block_shards * self.num_samples / len(sizes)
        # Blocks of equal size: a small one at the end of a lane would mix badly.
        self._block_size = -(-self._lane_size // max(1, round(self._lane_size / wanted)))
        # Two epochs' shards and two blocks a lane cover a look-ahead across either boundary.
        self._line = lru_cache(maxsize=2)(self._permute_shards)
        self._block = lru_cache(maxsize=2 * config.lanes)(self._permute_block)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of the global batch of `step` (0..num_steps-1) of `epoch`, int64 [G], lane after lane."""
        assert 0 <= step < self.num_steps
        start = step * self._samples_per_step
        lanes = [self._lane_positions(epoch, lane, start) for lane in range(self.config.lanes)]
        return self._ids(epoch, np.concatenate(lanes))

    def _lane_positions(self, epoch: int, lane: int, start: int) -> NDArray[np.int64]:
        """Positions on the epoch's line of samples start..start+g of a lane; they may span several blocks."""
        stop = start + self._samples_per_step
        parts = []
        for block in range(start // self._block_size, (stop - 1) // self._block_size + 1):
            first = block * self._block_size
            shuffled = self._block(epoch, lane, block)
            parts.append(shuffled[max(start - first, 0) : stop - first])
        return lane * self._lane_size + np.concatenate(parts)

    def _permute_block(self, epoch: int, lane: int, block: int) -> NDArray[np.int64]:
        first = block * self._block_size
        size = min(self._block_size, self._lane_size - first)
        # Lane and block share a coordinate; neither reaches 65,536 at any size that fits a disk.
        return first + permutation(self.seed, Domain.BLOCK_ORDER, size, epoch, (block << 16) + lane)

    def _permute_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shards = permutation(self.seed, Domain.SHARD_ORDER, len(self._sizes), epoch)
        return shards, np.cumsum(self._sizes[shards])

    def _ids(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        shards, ends = self._line(epoch)
        place = np.searchsorted(ends, positions, side="right")
        shard = shards[place]
        within = positions - (ends[place] - self._sizes[shard])
        ids: NDArray[np.int64] = self._shard_starts[shard] + within
        return ids


class SequentialOrder:
    """The evaluation order: every sample once, by id; the last batch is filled up, and `mask` says with what."""

    def __init__(self, num_samples: int, global_batch: int) -> None:
        self.num_samples, self.global_batch = num_samples, global_batch
        self.num_steps = -(-num_samples // global_batch)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of one batch, int64 [G]; a repeated id names the same sample, so writing results by id is exact."""
        del epoch
        return np.minimum(self._places(step), self.num_samples - 1)

    def mask(self, step: int) -> NDArray[np.bool_]:
        """Which places of a batch count, bool [G]: False where the last batch is filled up."""
        return self._places(step) < self.num_samples

    def _places(self, step: int) -> NDArray[np.int64]:
        first = step * self.global_batch
        return np.arange(first, first + self.global_batch)
