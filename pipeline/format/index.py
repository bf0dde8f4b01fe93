"""The index of a shard: where each image lies in the tar, its checksum, its label and its size in pixels.

One row per sample, in the order of the tar. The manifest has the digest of the index, and the index has a checksum of
every byte of its samples that a reader uses. So the tar needs no check of its own before use.
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.format.checksum import digest_bytes
from pipeline.format.rows import RowsError, rows_from_bytes, rows_to_bytes
from pipeline.format.shard_table import ShardEntry

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the image inside the tar
        ("checksum", "<u8"),  # XXH3-64 of the encoded image
        ("head_checksum", "<u8"),  # XXH3-64 of the sample's bytes before its image: headers, label, metadata
        ("size", "<u4"),  # bytes of the encoded image
        ("label", "<i4"),  # position in the manifest's classes, or MULTI_LABEL, or UNLABELLED
        ("height", "<u4"),  # pixels as stored, before any EXIF rotation
        ("width", "<u4"),
        ("orientation", "u1"),  # EXIF orientation 1..8; 1 where the image has none
    ]
)
# A row without fields: numpy gathers such rows ten times as fast.
ROW_DTYPE = np.dtype((np.void, INDEX_DTYPE.itemsize))

MULTI_LABEL = -1
"""The sample has any number of labels; they are in the tar only."""
UNLABELLED = -2
"""The sample has no label, since the data set is unlabelled. Then the manifest has no classes."""

Index = NDArray[Any]
"""A one-dimensional array of `INDEX_DTYPE`."""


class ShardIndexError(UserError):
    """The index of a shard does not match the manifest; the message names the file."""


def ends(index: Index) -> NDArray[np.int64]:
    """The byte where each sample ends in the tar: the block boundary after its image. The next sample begins there."""
    sizes = index["size"].astype(np.int64)
    positions: NDArray[np.int64] = index["offset"].astype(np.int64) + sizes + -sizes % tarfile.BLOCKSIZE
    return positions


def index_to_bytes(index: Index) -> bytes:
    """The content of an index file."""
    assert index.dtype == INDEX_DTYPE
    return rows_to_bytes(index)


def load_index(path: str | Path, entry: ShardEntry) -> Index:
    """Read an index file and check it against its manifest entry. Thread-safe.

    Raises:
        ShardIndexError: the file is missing, or its digest, row type or row count is wrong.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ShardIndexError(f"cannot read index {path}: {error.strerror or error}") from None
    return index_from_bytes(content, entry, str(path))


def index_from_bytes(content: bytes, entry: ShardEntry, source: str) -> Index:
    """As `load_index`, from the content of an index file; `source` is its address, for messages."""
    if digest_bytes(content) != entry.index_digest:
        raise ShardIndexError(f"index {source} does not have the digest that the manifest records; fetch it again")
    try:
        return rows_from_bytes(content, INDEX_DTYPE, entry.num_samples)
    except RowsError as error:
        raise ShardIndexError(f"index {source} {error}; build the shards again") from None
