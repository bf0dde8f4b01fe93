"""The interfaces between a stream and shards, on disk or remote: an open shard, and all shards of a data set."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError


class CacheError(UserError):
    """A shard does not match its manifest, or the local disk cannot hold it."""


class OpenShard(Protocol):
    """A shard whose bytes can be read; `rows` is its index as `ROW_DTYPE`."""

    rows: NDArray[np.void]

    def will_need(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """Bring these bytes nearer, without waiting, if that is possible."""
        ...

    def read_into(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """Fill each buffer with the bytes from its offset of the tar on. Thread-safe.

        Nothing is verified here: see `SampleReader`. Bytes that lie behind the end of a local file become 0.
        """
        ...


class ShardSource(Protocol):
    """The shards of a manifest, opened on demand. `ShardCache` documents the methods."""

    @property
    def is_stored(self) -> bool: ...

    @property
    def max_bytes(self) -> int: ...

    @property
    def num_shards(self) -> int: ...

    @property
    def is_full(self) -> bool: ...

    def shard(self, i: int) -> OpenShard: ...

    def renewed(self, i: int, shard: OpenShard) -> OpenShard: ...

    def pin(self, i: int) -> OpenShard: ...

    def release(self, i: int) -> None: ...

    def num_bytes(self, shards: Iterable[int]) -> int: ...

    def url(self, i: int) -> str: ...
