"""Sources of images: the catalogue of data sets and formats, and a `Reader` for each."""

from pathlib import Path

from tools.shard_builder.readers.base import ByteSource, Reader, ReadOptions, Record, SourceError
from tools.shard_builder.readers.dataset import Dataset
from tools.shard_builder.readers.image_folder import ImageFolder
from tools.shard_builder.readers.pretraining_sets import FORMATS, PRETRAINING_SETS
from tools.shard_builder.readers.sources import MetadataSource
from tools.shard_builder.readers.transfer_sets import TRANSFER_SETS

DATASETS = {dataset.name: dataset for dataset in (*FORMATS, *PRETRAINING_SETS, *TRANSFER_SETS)}


def open_reader(
    dataset: str, source: Path, split: str, *, allow_subset: bool = False, unlabelled: bool = False
) -> Reader:
    """The reader of a data set by its command-line name; `Dataset.open` says what is checked."""
    options = ReadOptions(unlabelled=unlabelled)
    return DATASETS[dataset].open(source, split, allow_subset=allow_subset, options=options)


__all__ = [
    "DATASETS",
    "ByteSource",
    "Dataset",
    "ImageFolder",
    "MetadataSource",
    "ReadOptions",
    "Reader",
    "Record",
    "SourceError",
    "open_reader",
]
