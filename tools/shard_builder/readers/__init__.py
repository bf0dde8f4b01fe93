"""Sources of labelled images, each a `Reader`."""

from pathlib import Path

from tools.shard_builder.readers.base import Reader, Record, SourceError
from tools.shard_builder.readers.image_folder import ImageFolder

READERS = {"image-folder": ImageFolder}


def open_reader(dataset: str, source: Path, split: str) -> Reader:
    """The reader of a data set by its command-line name."""
    return READERS[dataset](source, split)


__all__ = ["READERS", "ImageFolder", "Reader", "Record", "SourceError", "open_reader"]
