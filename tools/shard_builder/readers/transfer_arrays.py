"""Layouts of the transfer data sets that come as arrays of pixels. Every image becomes a PNG, without loss."""

import csv
from collections.abc import Iterator
from pathlib import Path

from tools.shard_builder.readers.annotations import read_lines, reading
from tools.shard_builder.readers.arrays import (
    load_cifar,
    load_cifar_images,
    load_hdf5,
    load_idx,
    load_patch_camelyon_images,
    load_stl_images,
)
from tools.shard_builder.readers.base import Listing, Reader, Record, SourceError
from tools.shard_builder.readers.layout import find
from tools.shard_builder.readers.pixels import PixelTextSource, pixel_records

_FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_FER_USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_FER_SIDE = 48


def cifar_10(source: Path, split: str) -> Reader:
    """The python version: five training batches, one test batch."""
    root = find(source, "batches.meta", "cifar-10-batches-py").parent
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    return _cifar([root / name for name in names], b"labels", root / "batches.meta", b"label_names")


def cifar_100(source: Path, split: str) -> Reader:
    """The python version, with the fine labels."""
    root = find(source, "meta", "cifar-100-python").parent
    return _cifar([root / split], b"fine_labels", root / "meta", b"fine_label_names")


def _cifar(batches: list[Path], labels: bytes, meta: Path, names: bytes) -> Listing:
    with reading(meta, "CIFAR's list of class names"):
        classes = tuple(name.decode() for name in load_cifar(str(meta))[names])

    def records() -> Iterator[Record]:
        for batch in batches:
            with reading(batch, "a batch of CIFAR's python version"):
                yield from pixel_records(load_cifar_images, batch, load_cifar(str(batch))[labels])

    return Listing(classes, records)


def mnist(source: Path, split: str) -> Reader:
    """The four idx files, plain or gzipped."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images, labels = (_idx_file(source, f"{prefix}-{name}") for name in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return Listing(tuple(map(str, range(10))), lambda: pixel_records(load_idx, images, load_idx(str(labels)).tolist()))


def _idx_file(source: Path, name: str) -> Path:
    folders = (source, source / "raw", source / "MNIST/raw")
    candidates = (folder / file for folder in folders for file in (name, f"{name}.gz"))
    if found := next((path for path in candidates if path.is_file()), None):
        return found
    raise SourceError(f"expected {source / name} or {source / name}.gz, but neither exists")


def stl_10(source: Path, split: str) -> Reader:
    """The binary version: images in `<split>_X.bin`, classes from 1 in `<split>_y.bin`."""
    images = find(source, f"{split}_X.bin", "stl10_binary")
    numbers = images.with_name(f"{split}_y.bin")
    with reading(numbers, "a file of one byte per label"):
        labels = [number - 1 for number in numbers.read_bytes()]
    classes = tuple(read_lines(images.with_name("class_names.txt")))
    return Listing(classes, lambda: pixel_records(load_stl_images, images, labels))


def patch_camelyon(source: Path, split: str) -> Reader:
    """Images and labels in two HDF5 files, already gunzipped."""
    name = f"camelyonpatch_level_2_split_{'valid' if split == 'val' else split}"
    images = find(source, f"{name}_x.h5", "pcam", "pcamv1")
    labels = load_hdf5(str(images.with_name(f"{name}_y.h5")), "y")[:].reshape(-1).tolist()
    return Listing(("no tumour", "tumour"), lambda: pixel_records(load_patch_camelyon_images, images, labels))


def fer_2013(source: Path, split: str) -> Reader:
    """A CSV file with grey values as text: `fer2013.csv`, or `icml_face_data.csv` with the same rows."""
    name = next((name for name in ("fer2013.csv", "icml_face_data.csv") if (source / name).is_file()), "fer2013.csv")
    return Listing(_FER_CLASSES, lambda: _fer_records(find(source, name, "fer2013"), _FER_USAGE[split]))


def _fer_records(table: Path, usage: str) -> Iterator[Record]:
    with reading(table, "a table of the columns emotion, pixels and Usage"), open(table, "rb") as file:
        header = file.readline()
        columns = [cell.strip() for cell in header.decode("utf-8-sig").split(",")]
        emotion, pixels, kind = (columns.index(name) for name in ("emotion", "pixels", "Usage"))
        offset = len(header)
        for row, line in enumerate(file):
            (cells,) = csv.reader([line.decode()])
            if cells[kind].strip() == usage:
                source = PixelTextSource(str(table), offset, len(line), pixels, _FER_SIDE)
                yield Record.of(f"{table.name}/{row:08d}", int(cells[emotion]), source)
            offset += len(line)
