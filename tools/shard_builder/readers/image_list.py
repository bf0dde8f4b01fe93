"""A table of images: CSV or Parquet with the columns `path` and `label`."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import read_csv
from tools.shard_builder.readers.base import Listing, Reader, SourceError
from tools.shard_builder.readers.layout import listed_files
from tools.shard_builder.readers.parquet import read_parquet_columns

_FORMATS = (".csv", ".parquet")


def image_list(source: Path, split: str) -> Reader:
    """The source is the table, or a folder that holds `<split>.csv` or `<split>.parquet`.

    Paths are absolute or relative to the folder of the table. Labels that are all whole numbers are class numbers,
    and the classes are named by them; other labels are class names. The table is read twice, not held in memory.
    """
    table = _find_table(source, split)
    classes = numbered_or_sorted({label for _, label in _rows(table)})
    labels = {name: label for label, name in enumerate(classes)}

    def rows() -> Iterator[tuple[str, Label]]:
        return ((path, labels[label]) for path, label in _rows(table))

    return Listing(classes, lambda: listed_files(table.parent, rows()))


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


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """(path, label) as text."""
    columns = read_csv if table.suffix == ".csv" else read_parquet_columns
    for path, label in columns(table, "path", "label"):
        yield str(path), str(label)
