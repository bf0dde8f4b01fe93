"""Sources of images: the table of data sets and formats, with a `Reader` for each."""

from pathlib import Path

from tools.shard_builder.readers.base import (
    ByteSource,
    Lost,
    Other,
    Reader,
    ReadOptions,
    Record,
    Seen,
    SourceError,
    make_key,
)
from tools.shard_builder.readers.dataset import AS_IT_IS, Dataset
from tools.shard_builder.readers.image_folder import ImageFolder
from tools.shard_builder.readers.pretraining_sets import FORMATS, PRETRAINING_SETS
from tools.shard_builder.readers.sources import MetadataSource, UnusableError, UnusableSource, readable
from tools.shard_builder.readers.transfer_sets import TRANSFER_SETS

DATASETS = {dataset.name: dataset for dataset in (*FORMATS, *PRETRAINING_SETS, *TRANSFER_SETS)}


def open_reader(
    dataset: str, source: Path, split: str, *, allow_subset: bool = False, options: ReadOptions = AS_IT_IS
) -> Reader:
    """The reader of a data set, by its name on the command line. `Dataset.open` lists the checks."""
    return DATASETS[dataset].open(source, split, allow_subset=allow_subset, options=options)


__all__ = [
    "DATASETS",
    "ByteSource",
    "Dataset",
    "ImageFolder",
    "Lost",
    "MetadataSource",
    "Other",
    "ReadOptions",
    "Reader",
    "Record",
    "Seen",
    "SourceError",
    "UnusableError",
    "UnusableSource",
    "make_key",
    "open_reader",
    "readable",
]
