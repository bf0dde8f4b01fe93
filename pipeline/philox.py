"""Counter-based random numbers: each value is a pure function of its counter and key.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), vectorised over counters.
Why not numpy's Philox: its generators draw sequentially from one counter, and numpy promises no stable numbers between
versions. A resumed run needs the same order and the same crops.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_ROUNDS = 10


class Domain(IntEnum):
    """The purpose of random numbers; two domains never share a counter."""

    SHARD_ORDER = 1
    BLOCK_ORDER = 2
    MULTI_CROP = 3
    MIXTURE = 5


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Four random 32-bit words for each counter: uint32 [..., 4] -> uint32 [..., 4]."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, domain: Domain, *coordinates: ArrayLike, num_words: int) -> NDArray[np.uint32]:
    """`num_words` random 32-bit words at each point of up to three broadcast integer coordinates (below 2**32).

    Returns uint32 [..., num_words]; the leading shape is that of the broadcast coordinates.
    """
    assert len(coordinates) <= 3
    num_blocks = -(-num_words // 4)
    # The fourth counter word holds the domain and the index of the block of four words.
    block = (int(domain) << 24) + np.arange(num_blocks)
    axes = [np.asarray(c)[..., None] for c in coordinates] + [np.zeros(1)] * (3 - len(coordinates))
    counter = np.stack(np.broadcast_arrays(*axes, block), axis=-1).astype(np.uint32)
    bits = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    return bits.reshape(*counter.shape[:-2], num_blocks * 4)[..., :num_words]


def uniform(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1), with 32 bits of resolution."""
    return bits.astype(np.float64) * 2.0**-32


def permutation(seed: int, domain: Domain, size: int, *coordinates: int) -> NDArray[np.int64]:
    """A random permutation of 0..size-1 for the given point of at most two coordinates."""
    bits = words(seed, domain, np.arange(size), *coordinates, num_words=2).astype(np.uint64)
    # A stable sort of 64-bit keys is the same in every numpy version, ties included.
    return np.argsort((bits[..., 0] << np.uint64(32)) | bits[..., 1], kind="stable")
