"""Tables of fixed-size rows as `.npy` files, which NumPy opens anywhere. The reader accepts one form of header only.

Why not `np.load`: it parses the header with `ast`. In Python 3.11 `ast` sometimes fails when several threads use it at
once ("SystemError: AST constructor recursion depth mismatch").
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.format.checksum import Readable

_MAGIC = b"\x93NUMPY\x01\x00"  # of version 1.0; then follow two bytes with the length of the header, and the header


class RowsError(Exception):
    """The content is not the table that was expected; the message is a clause without its name."""


def rows_to_bytes(rows: NDArray[Any]) -> bytes:
    """The content of the `.npy` file of a one-dimensional array; equal arrays give equal bytes."""
    assert rows.ndim == 1
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, rows, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def first_row(content: Readable) -> int:
    """The byte where the rows begin.

    Raises:
        RowsError: this is not a NumPy array file.
    """
    if content[: len(_MAGIC)] != _MAGIC:
        raise RowsError("is not a NumPy array file")
    return len(_MAGIC) + 2 + int.from_bytes(content[len(_MAGIC) :][:2], "little")


def rows_from_bytes(content: Readable, dtype: np.dtype[Any], num_rows: int) -> NDArray[Any]:
    """The rows, without a copy.

    Raises:
        RowsError: the content has another type or number of rows.
    """
    start = first_row(content)
    header = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({num_rows},), }}"
    if (
        bytes(content[len(_MAGIC) + 2 : start]).strip() != header.encode()
        or len(content) != start + num_rows * dtype.itemsize
    ):
        raise RowsError(f"does not hold the {num_rows} rows that the manifest records")
    rows = np.frombuffer(content, dtype, num_rows, start)
    rows.flags.writeable = False
    return rows
