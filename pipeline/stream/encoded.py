"""The encoded samples of one rank in one step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.buffers import Encoded

ReadKeys = Callable[[NDArray[np.int64]], list[str]]
"""A function from ids to keys."""


@dataclass(frozen=True)
class EncodedBatch:
    """The B samples of one rank in one step. `images` are the bytes as stored in the shard."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    data_sets: NDArray[np.int64]  # [B], the number of each sample's data set in `StreamConfig.sources`
    passes: NDArray[np.int64]  # [B], the pass over its data set, from 0; with the id, the key of the random views
    mask: NDArray[np.bool_]  # [B], False where an evaluation's last batch is padded
    labels: NDArray[np.int32]  # [B], positions in the classes; or MULTI_LABEL, UNLABELLED of pipeline.format.index
    heights: NDArray[np.int64]  # [B], in pixels, before any EXIF rotation
    widths: NDArray[np.int64]  # [B]
    orientations: NDArray[np.int64]  # [B], EXIF 1 to 8
    images: list[Encoded]
    read_keys: ReadKeys = field(repr=False)

    @cached_property
    def keys(self) -> list[str]:
        """The keys [B], read from the shards at first use, so they cost nothing otherwise."""
        return self.read_keys(self.ids)
