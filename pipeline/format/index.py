"""The index of a shard: where each image lies in the tar, and what is known without decoding it.

One row a sample, in the order of the tar, stored as a `.npy` file that readers map into memory.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.format.manifest import ShardEntry

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the image inside the tar
        ("size", "<u4"),  # bytes of the encoded image
        ("label", "<i4"),  # position in the manifest's classes; MULTI_LABEL where the tar has any number of them
        ("height", "<u4"),  # pixels as stored, before any EXIF rotation
        ("width", "<u4"),
        ("orientation", "u1"),  # EXIF orientation 1..8; 1 where the image has none
    ]
)
# A row without its fields: numpy gathers such rows ten times as fast.
ROW_DTYPE = np.dtype((np.void, INDEX_DTYPE.itemsize))

MULTI_LABEL = -1

Index = NDArray[Any]
"""A one-dimensional array of `INDEX_DTYPE`."""


class ShardIndexError(UserError):
    """The index of a shard does not match the manifest; the message names the file."""


def index_to_bytes(index: Index) -> bytes:
    """The content of an index file."""
    assert index.dtype == INDEX_DTYPE and index.ndim == 1
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, index, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def load_index(path: str | Path, entry: ShardEntry) -> Index:
    """Map an index file into memory after checking it against its manifest entry.

    Raises:
        ShardIndexError: the file is missing, or its hash, row type or row count is not the one promised.
    """
    try:
        actual_sha256 = sha256_file(path)
    except OSError as error:
        raise ShardIndexError(f"cannot read index {path}: {error.strerror or error}") from None
    return _checked(path, actual_sha256, entry, lambda: np.load(path, mmap_mode="r", allow_pickle=False))


def index_from_bytes(content: bytes, entry: ShardEntry, source: str) -> Index:
    """The same from the content of an index file; `source` is where it came from, for the message."""
    return _checked(source, sha256_bytes(content), entry, lambda: np.load(io.BytesIO(content), allow_pickle=False))


def _checked(source: str | Path, actual_sha256: str, entry: ShardEntry, load: Callable[[], Index]) -> Index:
    if actual_sha256 != entry.index_sha256:
        raise ShardIndexError(f"index {source} does not have the hash that the manifest records; fetch it again")
    try:
        index = load()
    except (ValueError, EOFError):
        raise ShardIndexError(f"index {source} is not a NumPy array file; build the shards again") from None
    if index.dtype != INDEX_DTYPE or index.shape != (entry.num_samples,):
        raise ShardIndexError(f"index {source} does not hold the {entry.num_samples} rows that the manifest records")
    return index
