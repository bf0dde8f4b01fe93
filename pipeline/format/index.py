"""The index of a shard: where each image lies in the tar, its label and its size in pixels.

One row per sample, in the order of the tar, stored as a `.npy` file that readers map into memory.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes
from pipeline.format.manifest import ShardEntry

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the image inside the tar
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

_MAGIC = b"\x93NUMPY\x01\x00"  # of version 1.0; then follow two bytes with the length of the header, and the header

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
    assert index.dtype == INDEX_DTYPE and index.ndim == 1
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, index, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def load_index(path: str | Path, entry: ShardEntry) -> Index:
    """Check an index file against its manifest entry and map it into memory. Thread-safe.

    Raises:
        ShardIndexError: the file is missing, or its hash, row type or row count is wrong.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ShardIndexError(f"cannot read index {path}: {error.strerror or error}") from None
    start = _first_row(content, entry, path)
    return np.memmap(path, INDEX_DTYPE, "r", start, (entry.num_samples,))


def index_from_bytes(content: bytes, entry: ShardEntry, source: str) -> Index:
    """As `load_index`, from the content of an index file; `source` is its address, for messages."""
    return np.frombuffer(content, INDEX_DTYPE, entry.num_samples, _first_row(content, entry, source))


def _first_row(content: bytes, entry: ShardEntry, source: str | Path) -> int:
    """Check the content of an index file; returns the byte where its rows begin.

    Why not `np.load`: it parses the header with `ast`. In Python 3.11 `ast` sometimes fails when several threads use it
    at once ("SystemError: AST constructor recursion depth mismatch"). A valid header here has one form only.
    """
    if sha256_bytes(content) != entry.index_sha256:
        raise ShardIndexError(f"index {source} does not have the hash that the manifest records; fetch it again")
    if not content.startswith(_MAGIC):
        raise ShardIndexError(f"index {source} is not a NumPy array file; build the shards again")
    start = len(_MAGIC) + 2 + int.from_bytes(content[len(_MAGIC) :][:2], "little")
    header = f"{{'descr': {INDEX_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({entry.num_samples},), }}"
    num_bytes = start + entry.num_samples * INDEX_DTYPE.itemsize
    if content[len(_MAGIC) + 2 : start].strip() != header.encode() or len(content) != num_bytes:
        raise ShardIndexError(f"index {source} does not hold the {entry.num_samples} rows that the manifest records")
    return start
