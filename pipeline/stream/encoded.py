"""One step's samples of one rank, before any pixel is touched."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.buffers import Encoded

ReadKeys = Callable[[NDArray[np.int64]], list[str]]
"""Ids to keys."""


@dataclass(frozen=True)
class EncodedBatch:
    """The samples of one rank in one step. B samples; `images` are the bytes as they lie in the shard."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    data_sets: NDArray[np.int64]  # [B], the number of each sample's data set in `StreamConfig.sources`
    passes: NDArray[np.int64]  # [B], how often its data set was gone through before: with the id, the key of its views
    mask: NDArray[np.bool_]  # [B], False where an evaluation's last batch is filled up
    labels: NDArray[np.int32]  # [B], positions in the classes; or MULTI_LABEL, UNLABELLED of pipeline.format.index
    heights: NDArray[np.int64]  # [B], in pixels, before any EXIF rotation
    widths: NDArray[np.int64]  # [B]
    orientations: NDArray[np.int64]  # [B], EXIF 1 to 8
    images: list[Encoded]
    read_keys: ReadKeys = field(repr=False)

    @cached_property
    def keys(self) -> list[str]:
        """The keys [B]. They are read from the shards when asked for, so a step that does not ask pays nothing."""
        return self.read_keys(self.ids)
