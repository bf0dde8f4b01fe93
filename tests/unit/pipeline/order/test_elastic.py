"""A run on any number of ranks, cut anywhere and gone on with on any other number, trains on one and the same list."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.order import OrderConfig, SampleOrder, SequentialOrder, rank_slice

WORLD_SIZES = (1, 2, 3, 4, 6, 8, 16)
BATCH = 48  # a multiple of each


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    """Orders over uneven shards: of one sample, of hundreds, the last one of any size."""
    shard = st.one_of(st.just(1), st.integers(1, 9), st.integers(40, 200))
    sizes = draw(st.lists(shard, min_size=1, max_size=20).filter(lambda sizes: sum(sizes) >= BATCH))
    lanes = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 48]))
    config = OrderConfig(lanes=lanes, block_shards=draw(st.integers(1, 8)))
    return SampleOrder(sizes, draw(st.integers(0, 2**63)), BATCH, config)


def train(order: SampleOrder, world_size: int, start: int, stop: int) -> NDArray[np.int64]:
    """What the ranks together train on in steps start..stop, each rank with an order of its own: [steps, G]."""
    ranks = []
    for rank in range(world_size):
        own = SampleOrder(order.shard_sizes, order.seed, order.global_batch, order.config)
        part = rank_slice(BATCH, rank, world_size)
        steps = [own.batch(*divmod(position, own.num_steps))[part] for position in range(start, stop)]
        ranks.append(np.array(steps, dtype=np.int64).reshape(stop - start, BATCH // world_size))
    assert len({part.shape for part in ranks}) == 1, "a rank has more steps than another"
    return np.concatenate(ranks, axis=1)


@settings(deadline=None, max_examples=60)
@given(orders(), st.sampled_from(WORLD_SIZES))
def test_the_union_over_the_ranks_is_the_order_of_one_rank(order: SampleOrder, world_size: int) -> None:
    stop = min(2 * order.num_steps, 12)
    np.testing.assert_array_equal(train(order, world_size, 0, stop), train(order, 1, 0, stop))


@settings(deadline=None, max_examples=60)
@given(orders(), st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 5)), min_size=1, max_size=5))
def test_any_chain_of_world_sizes_and_resume_points_is_the_run_of_one_rank(
    order: SampleOrder, legs: list[tuple[int, int]]
) -> None:
    begin = max(0, order.num_steps - 3)  # so that the chain crosses the end of an epoch
    position, run = begin, []
    for world_size, num_steps in legs:
        run.append(train(order, world_size, position, position + num_steps))
        position += num_steps
    np.testing.assert_array_equal(np.concatenate(run), train(order, 1, begin, position))


@settings(deadline=None, max_examples=30)
@given(orders(), st.integers(0, 2))
def test_an_epoch_in_legs_of_8_2_8_1_loses_nothing_and_repeats_nothing(order: SampleOrder, epoch: int) -> None:
    first = epoch * order.num_steps
    cuts = [first + order.num_steps * quarter // 4 for quarter in range(5)]
    legs = [train(order, w, *cut) for w, cut in zip((8, 2, 8, 1), pairwise(cuts), strict=True)]
    ids = np.concatenate(legs).ravel()
    assert len(np.unique(ids)) == len(ids) == order.num_steps * BATCH > order.num_samples - BATCH
    assert ids.min() >= 0 and ids.max() < order.num_samples


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from(WORLD_SIZES))
def test_validation_sees_each_sample_once_on_every_world_size(num_samples: int, world_size: int) -> None:
    order = SequentialOrder(num_samples, BATCH)
    seen = []
    for step in range(order.num_steps):
        ids, mask = order.batch(0, step), order.mask(step)
        for rank in range(world_size):
            part = rank_slice(BATCH, rank, world_size)
            seen += ids[part][mask[part]].tolist()
    assert seen == list(range(num_samples))
