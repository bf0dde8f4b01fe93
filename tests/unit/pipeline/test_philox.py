"""Counter-based random numbers: the published vectors, and that no two points share a stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.philox import Domain, permutation, philox4x32, uniform, words

WORD = st.integers(0, 2**32 - 1)
POINT = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(Domain), WORD, WORD, WORD)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's kat_vectors, philox4x32 with 10 rounds; the last one takes its input from the digits of pi
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    def parse(text: str) -> list[int]:
        return [int(word, 16) for word in text.split()]

    k0, k1 = parse(key)
    assert philox4x32(np.array(parse(counter), np.uint32), (k0, k1)).tolist() == parse(expected)


@given(st.lists(POINT, min_size=2, max_size=2, unique=True))
def test_two_points_have_different_numbers(points: list[tuple[int, Domain, int, int, int]]) -> None:
    a, b = (words(seed, domain, *coordinates, num_words=8) for seed, domain, *coordinates in points)
    assert not np.array_equal(a, b)


@given(st.integers(0, 2**64 - 1), st.lists(WORD, min_size=1, max_size=5), WORD, st.integers(1, 40))
def test_a_value_depends_on_its_own_coordinates_only(seed: int, xs: list[int], y: int, num_words: int) -> None:
    together = words(seed, Domain.MULTI_CROP, np.array(xs)[:, None], np.array([0, y]), num_words=40)
    assert together.shape == (len(xs), 2, 40)
    alone = words(seed, Domain.MULTI_CROP, xs[-1], y, num_words=num_words)
    np.testing.assert_array_equal(alone, together[-1, 1, :num_words])


@given(st.integers(0, 2**64 - 1), st.integers(0, 500), WORD, WORD)
def test_a_permutation_is_one(seed: int, size: int, x: int, y: int) -> None:
    order = permutation(seed, Domain.BLOCK_ORDER, size, x, y)
    assert sorted(order.tolist()) == list(range(size))


def test_permutations_mix() -> None:
    # The mean of |new place - old place| of a random permutation of n is n / 3.
    order = permutation(0, Domain.SHARD_ORDER, 10_000, 0)
    assert abs(np.abs(order - np.arange(10_000)).mean() - 10_000 / 3) < 100


def test_uniform_numbers_are() -> None:
    u = uniform(words(7, Domain.MULTI_CROP, np.arange(100_000), num_words=4))
    assert u.min() >= 0 and u.max() < 1
    np.testing.assert_allclose(np.histogram(u, 10, (0, 1))[0], 40_000, atol=5 * 190)  # five standard deviations
    np.testing.assert_allclose(np.corrcoef(u.T), np.eye(4), atol=0.02)
    assert uniform(np.array([0, 2**31, 2**32 - 1], np.uint32)).tolist() == [0, 0.5, 1 - 2.0**-32]


def test_the_streams_never_change() -> None:
    # Every sample order and every crop of every run hangs on these.
    drawn = words(2**40 + 1, Domain.MULTI_CROP, 5, 6, 7, num_words=5)
    assert drawn.tolist() == [2346794316, 2244964961, 2570649629, 1376542354, 3320908425]
    assert permutation(3, Domain.SHARD_ORDER, 8, 1).tolist() == [3, 4, 0, 7, 2, 1, 6, 5]
