"""Miniature data sets in the layout of the real download, with the expected result of their reader."""

import tarfile
from collections import defaultdict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.format.tar import Label
from support.shards import encode
from tools.shard_builder.readers import DATASETS, Reader

Found = list[tuple[tuple[str, ...], bytes]]
"""Class names and pixels or bytes of the images of a split, sorted."""


class Miniature:
    """A source folder, filled step by step. All images are different."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.expected: dict[str, Found] = defaultdict(list)
        self._num_images = 0

    def text(self, path: str, *lines: str) -> None:
        """Write a text file."""
        self.file(path, "".join(f"{line}\n" for line in lines).encode())

    def file(self, path: str, content: bytes) -> None:
        """Write any file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)

    def image(self, path: str, split: str, *names: str, file_format: str = "JPEG") -> None:
        """Write an image that the reader must find in `split` (in no split if empty) with these classes."""
        image = Image.fromarray(self.pixels())
        content = encode(image, file_format)
        self.file(path, content)
        self.expect(split, names, image.tobytes() if file_format == "PPM" else content)

    def pixels(self, height: int = 9, width: int = 8, channels: int = 3) -> NDArray[np.uint8]:
        """A new image as an array."""
        self._num_images += 1
        shape = (height, width, channels)[: 2 + (channels > 1)]
        return np.random.default_rng(self._num_images).integers(0, 256, shape, dtype=np.uint8)

    def expect(self, split: str, names: tuple[str, ...], content: bytes) -> None:
        """Add an image to the expected result of `found`."""
        if split:
            self.expected[split] = sorted([*self.expected[split], (names, content)])


def found(dataset: str, source: Path, split: str, *, as_pixels: bool = False) -> Found:
    """The images that the data set's reader finds: bytes, or pixels for images that were converted to PNG."""
    reader = DATASETS[dataset].open(source, split, allow_subset=True)
    records = list(reader.records())
    assert len({record.path for record in records}) == len(records)
    contents = [record.source.read() for record in records]
    if as_pixels:
        assert {Image.open(BytesIO(content)).format for content in contents} <= {"PNG"}
        contents = [Image.open(BytesIO(content)).tobytes() for content in contents]
    return sorted(zip((names_of(reader, record.label) for record in records), contents, strict=True))


def names_of(reader: Reader, label: Label) -> tuple[str, ...]:
    """The class names of a label; none where there is no label."""
    return tuple(reader.classes[number] for number in ((label,) if isinstance(label, int) else label or ()))


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Write a tar of these files; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path.read_bytes()
