"""The table of a data set's shards, one row per shard: `shards.npy`, the large part of a manifest.

A table of 500,000 shards is one array of 46 MB. Entries are made when they are asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from pipeline.config import Config
from pipeline.format.checksum import Readable, digest_bytes
from pipeline.format.rows import RowsError, first_row, rows_from_bytes, rows_to_bytes

TABLE_NAME = "shards.npy"
_DIGEST_BYTES = 32


class ShardEntry(Config):
    """One shard: a tar file and its index."""

    name: str
    """For example "train-000000"; file names are this name and a suffix."""
    num_bytes: PositiveInt
    """Size of the tar file."""
    num_samples: PositiveInt
    digest: str
    """BLAKE3 of the tar file, in hex."""
    index_digest: str
    """BLAKE3 of the index file, in hex."""

    @property
    def tar_name(self) -> str:
        return f"{self.name}.tar"

    @property
    def index_name(self) -> str:
        return f"{self.name}.samples.npy"


def _row_type(name_bytes: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("num_bytes", "<u8"),
            ("num_samples", "<u8"),
            ("digest", "u1", (_DIGEST_BYTES,)),
            ("index_digest", "u1", (_DIGEST_BYTES,)),
            ("name", f"S{name_bytes}"),  # UTF-8
        ]
    )


_BYTES_WITHOUT_NAME = _row_type(1).itemsize - 1


class ShardTable(Sequence[ShardEntry]):
    """The shards of a data set, in order.

    Attributes:
        num_samples, num_bytes: Samples, and bytes of the tar, of each shard: int64 [N].
    """

    def __init__(self, rows: NDArray[Any], digest: str | None = None) -> None:
        """`digest`: that of `to_bytes()`, if it is known."""
        self._rows, self._digest = rows, digest
        self.num_samples: NDArray[np.int64] = rows["num_samples"].astype(np.int64)
        self.num_bytes: NDArray[np.int64] = rows["num_bytes"].astype(np.int64)

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> Self:
        """The table of these shards."""
        listed = [
            (
                entry.num_bytes,
                entry.num_samples,
                np.frombuffer(bytes.fromhex(entry.digest), np.uint8),
                np.frombuffer(bytes.fromhex(entry.index_digest), np.uint8),
                entry.name.encode(),
            )
            for entry in entries
        ]
        return cls(np.array(listed, _row_type(max((len(row[-1]) for row in listed), default=1))))

    @classmethod
    def from_bytes(cls, content: Readable, num_shards: int, digest: str) -> Self:
        """The table in the content of its file, which has this digest.

        Raises:
            RowsError: this is not a table of `num_shards` shards.
        """
        row_bytes, rest = divmod(len(content) - first_row(content), max(num_shards, 1))
        if rest or row_bytes <= _BYTES_WITHOUT_NAME:
            raise RowsError(f"does not hold the {num_shards} rows that the manifest records")
        return cls(rows_from_bytes(content, _row_type(row_bytes - _BYTES_WITHOUT_NAME), num_shards), digest)

    def to_bytes(self) -> bytes:
        """The content of its file: equal tables give equal bytes."""
        return rows_to_bytes(self._rows)

    @property
    def digest(self) -> str:
        """BLAKE3 of `to_bytes()`, in hex."""
        if self._digest is None:
            self._digest = digest_bytes(self.to_bytes())
        return self._digest

    @property
    def has_repeated_names(self) -> bool:
        """Whether two shards have the same name."""
        return len(np.unique(self._rows["name"])) < len(self)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[ShardEntry, ...]: ...

    def __getitem__(self, place: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        if isinstance(place, slice):
            return tuple(map(_entry, self._rows[place]))
        return _entry(self._rows[place])

    def __iter__(self) -> Iterator[ShardEntry]:
        return map(_entry, self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _entry(row: Any) -> ShardEntry:
    return ShardEntry(
        name=row["name"].decode(),
        num_bytes=int(row["num_bytes"]),
        num_samples=int(row["num_samples"]),
        digest=row["digest"].tobytes().hex(),
        index_digest=row["index_digest"].tobytes().hex(),
    )
