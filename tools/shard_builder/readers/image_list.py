"""A table of images: CSV or Parquet with the columns `path` and, unless the images are unlabelled, `label`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.shard_builder.readers.annotations import csv_columns, read_csv
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError
from tools.shard_builder.readers.parquet import parquet_columns, read_parquet_columns
from tools.shard_builder.readers.sources import FileSource, TextSource

_FORMATS = (".csv", ".parquet")


def image_list(source: Path, split: str, options: ReadOptions) -> Reader:
    """The source is the table, or a folder that holds `<split>.csv` or `<split>.parquet`.

    Paths are absolute or relative to the folder of the table. Labels that are all whole numbers are class numbers,
    and the classes are named by them; other labels are class names. The table is read twice, not held in memory.
    Metadata are its other columns. Unlabelled, the column `label` is one of these, and need not be there.
    """
    table = _find_table(source, split)
    columns = ("path",) if options.unlabelled else ("path", "label")
    others = [name for name in _columns(table) if name not in columns]
    classes = () if options.unlabelled else numbered_or_sorted({str(label) for _, label in _rows(table, *columns)})
    labels = {name: label for label, name in enumerate(classes)}

    def records() -> Iterator[Record]:
        for path, *values in _rows(table, *columns, *others):
            label = None if options.unlabelled else labels[str(values.pop(0))]
            metadata = json.dumps(dict(zip(others, values, strict=True)), default=str) if others else None
            image = FileSource.at(table.parent, str(path))
            yield Record.of(str(path), label, image, TextSource(metadata) if metadata else None)

    return Listing(classes, records)


def numbered_or_sorted(names: set[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: 0, 1, 2 ... without a gap where all are numbers, else sorted."""
    if names and all(name.isdecimal() for name in names):
        return tuple(str(number) for number in range(max(map(int, names)) + 1))
    return tuple(sorted(names))


def _find_table(source: Path, split: str) -> Path:
    if source.is_file() and source.suffix in _FORMATS:
        return source
    for table in (source / f"{split}{suffix}" for suffix in _FORMATS):
        if table.is_file():
            return table
    raise SourceError(f"expected {source} to be a .csv or .parquet file, or to hold {split}.csv or {split}.parquet")


def _columns(table: Path) -> list[str]:
    return csv_columns(table) if table.suffix == ".csv" else parquet_columns(table)


def _rows(table: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The values of these columns."""
    read = read_csv if table.suffix == ".csv" else read_parquet_columns
    yield from read(table, *columns)
