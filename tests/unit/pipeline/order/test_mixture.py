"""The order of a mixture keeps every promise that the order of one data set makes, and its shares."""

import hashlib
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.order import MixtureOrder, OrderConfig, OrderError, rank_slice

WORLD_SIZES = (1, 2, 3, 4, 6, 8, 16)
BATCH = 48  # a multiple of each

Inputs = tuple[list[list[int]], list[float], int, OrderConfig]


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    """One to four data sets, some used up within a step, with weights of any ratio."""
    lanes = draw(st.sampled_from([1, 2, 3, 4, 8, 24, 48]))
    shard = st.one_of(st.integers(1, 9), st.integers(40, 200))
    data_set = st.lists(shard, min_size=1, max_size=8).filter(lambda sizes: sum(sizes) >= lanes)
    data_sets = draw(st.lists(data_set, min_size=1, max_size=4).filter(lambda d: sum(map(sum, d)) >= BATCH))
    weight = st.one_of(st.integers(1, 9), st.floats(0.001, 100))
    weights = draw(st.lists(weight, min_size=len(data_sets), max_size=len(data_sets)))
    config = OrderConfig(lanes=lanes, block_shards=draw(st.integers(1, 4)))
    return data_sets, weights, draw(st.integers(0, 2**63)), config


def new_order(given: Inputs) -> MixtureOrder:
    data_sets, weights, seed, config = given
    return MixtureOrder(data_sets, weights, seed, BATCH, config)


def train(given: Inputs, world_size: int, start: int, stop: int) -> NDArray[np.int64]:
    """(id, pass) of what the ranks together train on in steps start..stop, each with an order of its own."""
    ranks = []
    for rank in range(world_size):
        order, part = new_order(given), rank_slice(BATCH, rank, world_size)
        steps = [divmod(position, order.num_steps) for position in range(start, stop)]
        taken = [np.stack([order.batch(*at)[part], order.passes(*at)[part]], axis=1) for at in steps]
        ranks.append(np.array(taken, dtype=np.int64).reshape(stop - start, BATCH // world_size, 2))
    assert len({part.shape for part in ranks}) == 1, "a rank has more steps than another"
    return np.concatenate(ranks, axis=1)


@settings(deadline=None, max_examples=12)
@given(inputs(), st.sampled_from(WORLD_SIZES))
def test_the_union_over_the_ranks_is_the_order_of_one_rank(given: Inputs, world_size: int) -> None:
    np.testing.assert_array_equal(train(given, world_size, 0, 6), train(given, 1, 0, 6))


@settings(deadline=None, max_examples=12)
@given(inputs(), st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_a_chain_of_8_2_8_1_ranks_from_any_position_is_the_run_of_one(
    given: Inputs, begin: int, num_steps: list[int]
) -> None:
    cuts = np.cumsum([begin, *num_steps]).tolist()
    legs = [train(given, w, *cut) for w, cut in zip((8, 2, 8, 1), pairwise(cuts), strict=True)]
    np.testing.assert_array_equal(np.concatenate(legs), train(given, 1, begin, cuts[-1]))


@settings(deadline=None, max_examples=12)
@given(inputs())
def test_each_data_set_is_passed_over_again_and_again_without_loss_or_repetition(given: Inputs) -> None:
    data_sets, _, _, config = given
    order = new_order(given)
    bounds = np.cumsum([0, *map(sum, data_sets)])
    seen = [train(given, 1, 0, 8).reshape(-1, 2)]
    sizes = np.diff(bounds)
    for k, size in enumerate(sizes):
        ids, passes = seen[0][(seen[0][:, 0] >= bounds[k]) & (seen[0][:, 0] < bounds[k + 1])].T
        taken = Counter(zip(passes.tolist(), ids.tolist(), strict=True))
        assert set(taken.values()) <= {1}, "twice in one pass"
        a_pass = size - size % config.lanes  # what the lanes leave out is less than one sample each
        whole, rest = divmod(len(ids), a_pass)
        of_pass = Counter(passes.tolist())
        assert of_pass == {**dict.fromkeys(range(whole), a_pass), **({whole: rest} if rest else {})}
    assert order.num_steps == sizes.sum() // BATCH


@settings(deadline=None, max_examples=60)
@given(inputs(), st.integers(0, 10**9))
def test_the_shares_are_exact_in_the_long_run_and_close_at_any_time(given: Inputs, places: int) -> None:
    data_sets, weights, _, _ = given
    order = new_order(given)
    counts, later = order.taken(places), order.taken(places + 1)
    assert sum(counts) == places
    assert sorted(b - a for a, b in zip(counts, later, strict=True)) == [0] * (len(counts) - 1) + [1]
    total = sum(Fraction(str(weight)) for weight in weights)
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - places * Fraction(str(weight)) / total) < len(data_sets)


@settings(deadline=None, max_examples=30)
@given(inputs(), st.integers(0, 10**6))
def test_a_step_is_the_same_however_it_was_reached(given: Inputs, position: int) -> None:
    fresh, used = new_order(given), new_order(given)
    here = divmod(position, fresh.num_steps)
    for before in range(max(0, position - 3), position):
        used.batch(*divmod(before, used.num_steps))
    np.testing.assert_array_equal(used.batch(*here), fresh.batch(*here))
    np.testing.assert_array_equal(used.passes(*here), fresh.passes(*here))


def imagenet_and_more(weights: tuple[float, float] = (3, 1), lanes: int = 8, seed: int = 5) -> MixtureOrder:
    return MixtureOrder([[100] * 10, [100] * 40], weights, seed, 256, OrderConfig(lanes=lanes, block_shards=4))


@pytest.mark.parametrize("world_size", (1, 2, 4, 8, 16, 32))
def test_every_rank_has_a_fair_mixture(world_size: int) -> None:
    order = imagenet_and_more((5, 3))
    for step in range(order.num_steps):
        is_first = order.batch(0, step) < 1000
        of_rank = [int(is_first[rank_slice(256, rank, world_size)].sum()) for rank in range(world_size)]
        assert max(of_rank) - min(of_rank) <= (world_size > 8)  # 8 lanes: up to 8 ranks have whole ones
        assert sum(of_rank) == 160


def test_only_the_ratio_of_the_weights_matters() -> None:
    one, other = imagenet_and_more((0.3, 0.1)), imagenet_and_more((3, 1))
    assert one.batch(1, 2).tolist() == other.batch(1, 2).tolist() and one.identity == other.identity
    assert one.identity == {"seed": 5, "lanes": 8, "block_shards": 4, "shares": ["3/4", "1/4"]}


def test_equal_data_sets_are_not_permuted_alike() -> None:
    order = MixtureOrder([[100] * 8, [100] * 8], (1, 1), 0, 32, OrderConfig(lanes=1))
    ids = np.concatenate([order.batch(0, step) for step in range(20)])
    assert np.mean(ids[ids < 800][:300] == ids[ids >= 800][:300] - 800) < 0.05


def test_the_order_of_a_seed_never_changes() -> None:
    order = imagenet_and_more((0.7, 0.2))
    steps = [order.batch(*divmod(position, order.num_steps)) for position in range(40)]
    assert hashlib.sha256(np.array(steps, dtype="<i8").tobytes()).hexdigest()[:16] == "7f49caaf376ba46f"


@pytest.mark.parametrize(
    ("sizes", "batch", "sentence"),
    [
        ([[30], [7]], 8, "a data set of the mixture has 7 samples, fewer than order.lanes 8"),
        ([[30], [30]], 12, "global batch 12 is not a multiple of order.lanes 8"),
        ([[30], [30]], 64, "the data set has 60 samples, fewer than one global batch of 64"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: list[list[int]], batch: int, sentence: str) -> None:
    with pytest.raises(OrderError, match=sentence):
        MixtureOrder(sizes, (1, 1), 0, batch, OrderConfig())
