"""The sample order: exact for every world size, reproducible from any point, and well mixed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.order import OrderConfig, OrderError, SampleOrder, SequentialOrder, rank_slice
from pipeline.order.lanes import Lanes


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    """Orders over uneven shards, shards of one sample among them."""
    lanes, a_lane = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda s: sum(s) >= lanes * a_lane))
    config = OrderConfig(lanes=lanes, block_shards=draw(st.integers(1, 4)))
    return SampleOrder(sizes, draw(st.integers(0, 2**63)), lanes * a_lane, config)


def fresh(order: SampleOrder) -> SampleOrder:
    """The same order, before anything was asked of it."""
    return SampleOrder(order.shard_sizes, order.seed, order.global_batch, order.config)


def imagenet_like(seed: int = 0, shards: int = 40, lanes: int = 8, block_shards: int = 4) -> SampleOrder:
    sizes = [90 + shard % 21 for shard in range(shards)]
    return SampleOrder(sizes, seed, 32, OrderConfig(lanes=lanes, block_shards=block_shards))


def epoch_ids(order: SampleOrder, epoch: int) -> list[int]:
    return np.concatenate([order.batch(epoch, step) for step in range(order.num_steps)]).tolist()


@given(orders(), st.integers(0, 1000))
def test_an_epoch_has_each_sample_at_most_once_and_leaves_out_less_than_a_batch(order: SampleOrder, epoch: int) -> None:
    ids = epoch_ids(order, epoch)
    assert len(ids) == order.num_steps * order.global_batch > order.num_samples - order.global_batch
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(range(order.num_samples))


@given(orders(), st.data())
def test_a_batch_is_a_pure_function_of_seed_epoch_and_step(order: SampleOrder, data: st.DataObject) -> None:
    points = st.tuples(st.integers(0, 3), st.integers(0, order.num_steps - 1))
    for epoch, step in data.draw(st.lists(points, max_size=20)):
        np.testing.assert_array_equal(order.batch(epoch, step), fresh(order).batch(epoch, step))


@given(orders(), st.data())
def test_the_ranks_together_have_the_batch_in_order(order: SampleOrder, data: st.DataObject) -> None:
    batch = order.batch(1, order.num_steps - 1)
    world_size = data.draw(st.sampled_from([w for w in range(1, len(batch) + 1) if len(batch) % w == 0]))
    parts = [batch[rank_slice(order.global_batch, rank, world_size)] for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(batch) // world_size}
    np.testing.assert_array_equal(np.concatenate(parts), batch)


@given(orders())
def test_every_lane_reads_its_own_shards(order: SampleOrder) -> None:
    # C - 1 cuts through the line of shards: what is read twice by ranks that own whole lanes is at most that.
    shard_of = np.repeat(np.arange(len(order.shard_sizes)), order.shard_sizes)
    lanes = np.array(epoch_ids(order, 0)).reshape(order.num_steps, order.config.lanes, -1).swapaxes(0, 1)
    reads = sum(len(set(shard_of[lane.ravel()].tolist())) for lane in lanes)
    assert reads <= len(order.shard_sizes) + order.config.lanes - 1


def test_epochs_and_seeds_differ() -> None:
    first = epoch_ids(imagenet_like(), 0)
    for other in (epoch_ids(imagenet_like(), 1), epoch_ids(imagenet_like(seed=1), 0)):
        assert np.mean(np.array(first) == np.array(other)) < 0.01
    # The tail that is left out is another one, too.
    assert set(first) != set(epoch_ids(imagenet_like(), 1))


def test_a_batch_mixes_shards() -> None:
    order = imagenet_like()
    shard_of = np.repeat(np.arange(40), [90 + shard % 21 for shard in range(40)])
    spread = [len(set(shard_of[order.batch(0, step)].tolist())) for step in range(order.num_steps)]
    # 8 lanes of five shards, one block each; 4 samples of a lane hit 5 (1 - (4/5)^4) of its shards.
    assert np.mean(spread) == pytest.approx(23.6, abs=1)


def test_a_lane_has_no_small_block_at_its_end() -> None:
    lanes = Lanes([10] * 10, size=100, seed=0, config=OrderConfig(lanes=1, block_shards=3))
    last = {int(lanes.ids(number, 99, 100).item()) % 10 for number in range(20)}
    assert len(last) > 3  # a block of one sample would not be shuffled


def test_seed_and_mixing_tell_an_order_from_others() -> None:
    assert imagenet_like(seed=5).identity == {"seed": 5, "lanes": 8, "block_shards": 4}


def test_an_epoch_is_a_pass() -> None:
    assert imagenet_like().passes(epoch=3, step=1).tolist() == [3] * 32


def test_one_block_over_all_shards_is_a_uniform_shuffle() -> None:
    order = imagenet_like(lanes=1, block_shards=40)
    ids = np.array(epoch_ids(order, 0))
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 0.06


def test_the_order_of_a_seed_never_changes() -> None:
    ids = np.array([epoch_ids(imagenet_like(seed=5), epoch) for epoch in (0, 1)], dtype="<i8")
    assert hashlib.sha256(ids.tobytes()).hexdigest()[:16] == "febf3a51e67748d7"


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (12, "global batch 12 is not a multiple of order.lanes 8"),
        (48, "the data set has 40 samples, fewer than one global batch of 48"),
    ],
)
def test_what_does_not_fit_is_refused(batch: int, sentence: str) -> None:
    with pytest.raises(OrderError, match=sentence):
        SampleOrder([20, 20], 0, batch, OrderConfig())


@pytest.mark.parametrize("world_size", [3, 5, 16])
def test_a_world_size_that_does_not_divide_the_batch_is_refused(world_size: int) -> None:
    with pytest.raises(OrderError, match=f"global batch 8 cannot be split evenly over {world_size} ranks"):
        rank_slice(8, 0, world_size)


def test_there_is_at_least_one_lane() -> None:
    with pytest.raises(ValidationError):
        OrderConfig(lanes=0)


@given(st.integers(1, 200), st.integers(1, 32))
def test_the_sequential_order_covers_everything_once(num_samples: int, batch: int) -> None:
    order = SequentialOrder(num_samples, batch)
    ids = np.concatenate([order.batch(0, step) for step in range(order.num_steps)])
    assert len(ids) % batch == 0 and len(ids) - num_samples < batch
    assert ids[:num_samples].tolist() == list(range(num_samples))
    assert set(ids[num_samples:].tolist()) <= {num_samples - 1}
    mask = np.concatenate([order.mask(step) for step in range(order.num_steps)])
    assert mask.tolist() == [place < num_samples for place in range(len(ids))]
