"""The order of a mixture: every step takes a fixed share of its batch from each of several data sets.

    global places of a lane    | step 0: g = G / C        | step 1                   | ..
    shares 5/8 and 3/8         | A A B A B A A B           | A B A B A A B A          |      g = 8
    A, its own lanes           | pass 0 ....................................| pass 1 ...      each data set starts
    B, its own lanes           | pass 0 ......| pass 1 ......| pass 2 ......| ..              again at its end

Each data set is cut into its own lanes (`lanes.Lanes`). Lane c of the batch is filled from lane c of each data set. A
closed formula says how many of a lane's first T places each data set fills. So a position needs no history, and a
mixture has all properties of a single data set (docs/order.md).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.order.lanes import Lanes, Order, OrderConfig, OrderError, ShardSizes, check_batch
from pipeline.philox import Domain, words


class MixtureOrder(Order):
    """The training order of several data sets. Ids continue from one data set to the next.

    An epoch has as many samples as all data sets together. Depending on the weights, some samples come more than once
    per epoch and some not at all. `passes` counts for each data set separately.
    """

    def __init__(
        self,
        data_sets: Sequence[ShardSizes],
        weights: Sequence[float],
        seed: int,
        global_batch: int,
        config: OrderConfig,
    ) -> None:
        """`data_sets`: samples per shard of each data set. `weights`: above 0; only their ratios matter."""
        assert len(data_sets) == len(weights)
        sizes = [int(np.sum(shard_sizes)) for shard_sizes in data_sets]
        self.seed, self.global_batch, self.config = seed, global_batch, config
        check_batch(global_batch, sum(sizes), config)
        self.num_steps = sum(sizes) // global_batch
        if min(sizes) < config.lanes:
            raise OrderError(
                f"a data set of the mixture has {min(sizes)} samples, fewer than order.lanes {config.lanes}; "
                "leave it out or lower order.lanes"
            )
        self._samples_per_step = global_batch // config.lanes
        self._lanes = [
            Lanes(shard_sizes, size // config.lanes, _own_seed(seed, k), config)
            for k, (shard_sizes, size) in enumerate(zip(data_sets, sizes, strict=True))
        ]
        self._first_ids = [0, *accumulate(sizes)]
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 means a tenth
        self._shares = [weight / sum(exact) for weight in exact]
        self._shares_of_rest = [weight / sum(exact[k:]) for k, weight in enumerate(exact)]

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of the global batch of `step` of `epoch`, int64 [G], lane after lane."""
        columns = [
            self._first_ids[k] + lanes.ids(number, start, stop)
            for k, lanes in enumerate(self._lanes)
            for number, start, stop in self._stretches(k, epoch, step)
        ]
        return np.concatenate(columns, axis=1)[:, self._places(epoch, step)].ravel()

    def passes(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The pass over its data set that each sample of `batch` belongs to, from 0, int64 [G]."""
        stretches = [s for k in range(len(self._lanes)) for s in self._stretches(k, epoch, step)]
        lane = np.concatenate([np.full(stop - start, number) for number, start, stop in stretches])
        return np.tile(lane[self._places(epoch, step)], self.config.lanes)

    @property
    def identity(self) -> dict[str, Any]:
        """Seed, mixing and shares."""
        return {"seed": self.seed, **self.config.model_dump(), "shares": [str(share) for share in self._shares]}

    def taken(self, places: int) -> list[int]:
        """How many of the first `places` of every lane each data set fills; the sum is `places`.

        The first data set takes its share of all places, rounded down; the next takes its share of the rest, and so on.
        Each number grows with `places`, and differs from the exact share by less than the number of data sets.
        """
        counts, rest = [], places
        for share in self._shares_of_rest:
            counts.append(rest * share.numerator // share.denominator)
            rest -= counts[-1]
        return counts

    def _counts(self, epoch: int, step: int) -> list[tuple[int, int]]:
        """Where the step begins and ends in the endless lanes of each data set."""
        assert 0 <= step < self.num_steps
        begin = (epoch * self.num_steps + step) * self._samples_per_step
        return list(zip(self.taken(begin), self.taken(begin + self._samples_per_step), strict=True))

    def _stretches(self, k: int, epoch: int, step: int) -> Iterator[tuple[int, int, int]]:
        """The parts of each lane of data set `k` that the step takes: (pass, start, stop); several if a pass ends."""
        size, (begin, end) = self._lanes[k].size, self._counts(epoch, step)[k]
        while begin < end:
            number, start = divmod(begin, size)
            stop = min(size, start + end - begin)
            yield number, start, stop
            begin += stop - start

    def _places(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The order within a lane, int64 [g]. It spreads data sets evenly, so that each part of a lane is a mixture."""
        counts = [end - begin for begin, end in self._counts(epoch, step)]
        return np.argsort(np.concatenate([(np.arange(count) + 0.5) / count for count in counts]), kind="stable")


def _own_seed(seed: int, k: int) -> int:
    """A different seed per data set, so that data sets with equal shards are permuted differently."""
    low, high = words(seed, Domain.MIXTURE, k, num_words=2).tolist()
    return int(low) | int(high) << 32
