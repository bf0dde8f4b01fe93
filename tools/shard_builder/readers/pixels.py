"""Byte sources of images that are stored as raw pixels, or in a format that shards do not accept.

Both become PNG: lossless, with fixed parameters, so one release of Pillow always gives the same bytes.
"""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.shard_builder.readers.base import Record, SourceError
from tools.shard_builder.readers.sources import FileSource, read_range

Pixels = NDArray[np.uint8]
"""[N, height, width] or [N, height, width, 3]: an array, or an object indexed like one, such as an HDF5 data set."""


def encode_png(image: Image.Image) -> bytes:
    """The pixels as PNG, without metadata."""
    buffer = io.BytesIO()
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(buffer, "PNG", compress_level=6, optimize=False)
    return buffer.getvalue()


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Turn any error of a decoder into an `OSError`, so that the image becomes a reject."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"damaged image: {error}") from None


@dataclass(frozen=True, slots=True)
class PixelSource:
    """One row of an array of images. `load` opens the array and keeps it open for the next row."""

    load: Callable[[str], Pixels]
    array: str
    row: int
    num_bytes: int
    """Bytes of the pixels; PNG is smaller, except for noise."""

    def read(self) -> bytes:
        with decoding():
            return encode_png(Image.fromarray(np.asarray(self.load(self.array)[self.row])))


@dataclass(frozen=True, slots=True)
class PixelTextSource:
    """A line of a CSV file; one column has the grey values of a square image, separated by spaces."""

    table: str
    offset: int
    num_characters: int
    column: int
    side: int

    @property
    def num_bytes(self) -> int:
        return self.side**2

    def read(self) -> bytes:
        line = read_range(self.table, self.offset, self.num_characters).decode()
        try:
            (cells,) = csv.reader([line])
            pixels = np.array(cells[self.column].split(), dtype=np.uint8).reshape(self.side, self.side)
        except (ValueError, IndexError, OverflowError):
            raise OSError(f"no {self.side} x {self.side} grey values at byte {self.offset}") from None
        return encode_png(Image.fromarray(pixels))


@dataclass(frozen=True, slots=True)
class ConvertedSource:
    """An image file in a format that shards do not accept, such as PPM."""

    file: FileSource

    @property
    def num_bytes(self) -> int:
        return self.file.num_bytes

    def read(self) -> bytes:
        data = self.file.read()
        with decoding(), Image.open(io.BytesIO(data)) as image:
            return encode_png(image)


def pixel_records(load: Callable[[str], Pixels], array: Path, labels: Sequence[int]) -> Iterator[Record]:
    """One record per row of an array of images, with one label per row. Its path is the file name and the row.

    Raises:
        SourceError: the array cannot be read, or the numbers of rows and labels differ.
    """
    pixels = load(str(array))
    if len(pixels) != len(labels):
        raise SourceError(f"{array} has {len(pixels)} images, but there are {len(labels)} labels")
    num_bytes = math.prod(pixels.shape[1:])
    for row, label in enumerate(labels):
        yield Record.of(f"{array.name}/{row:08d}", int(label), PixelSource(load, str(array), row, num_bytes))
