"""A table of images: CSV or Parquet with the column `path` and a column of labels (not needed if unlabelled)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.shard_builder.readers.annotations import csv_columns, read_csv
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError
from tools.shard_builder.readers.labels import Classes, label_column, plain
from tools.shard_builder.readers.parquet import parquet_columns, read_parquet_columns
from tools.shard_builder.readers.sources import FileSource, TextSource
from tools.shard_builder.readers.wording import listed

_PATH = "path"
_FORMATS = (".csv", ".parquet")


def image_list(source: Path, split: str, options: ReadOptions) -> Reader:
    """Read a table; the source is the table itself, or a folder with `<split>.csv` or `<split>.parquet`.

    Paths are absolute, or relative to the folder of the table. Labels become classes as in `labels.py`. The table is
    read twice and not kept in memory. The other columns become metadata; if unlabelled, the column of labels counts as
    one of them.
    """
    table = _find_table(source, split)
    names = _columns(table)
    column, others_usual = (None, ()) if options.unlabelled else label_column(names, options.label_column, table)
    if _PATH not in names or (column is None and not options.unlabelled):
        missing = _PATH if _PATH not in names else "label"
        hint = "" if missing == _PATH else "; name it with --label-column, or pass --unlabelled to take no labels"
        wanted = _PATH if options.unlabelled else f"{_PATH}, label"
        raise SourceError(f"{table} has no column {missing!r}; expected {wanted}; it has {', '.join(names)}{hint}")
    others = [name for name in names if name not in (_PATH, column)]

    def cells(*columns: str) -> Iterator[tuple[str, Any]]:
        rows = _rows(table, *columns)
        return ((f"row {number} of {table}", row) for number, row in enumerate(rows, 1))

    classes = Classes((plain(label, place) for place, (_, label) in cells(_PATH, column)), table) if column else None

    def records() -> Iterator[Record]:
        for place, (path, *values) in cells(_PATH, *([column] if column else []), *others):
            label = classes.label(plain(values.pop(0), place)) if classes else None
            if not isinstance(path, str) or not path:
                raise SourceError(f"{place} has no path ({path!r:.80})")
            metadata = json.dumps(dict(zip(others, values, strict=True)), default=str) if others else None
            image = FileSource.at(table.parent, path, may_lead_out=True)
            yield Record.of(path, label, image, TextSource(metadata) if metadata else None)

    notes = (f"the labels of {table} are its column {column!r}, not {listed(others_usual)}",) if others_usual else ()
    return Listing(classes.names if classes else (), records, notes)


def _find_table(source: Path, split: str) -> Path:
    if source.is_file() and source.suffix in _FORMATS:
        return source
    tables = [table for suffix in _FORMATS if (table := source / f"{split}{suffix}").is_file()]
    if len(tables) == 1:
        return tables[0]
    expected = f"expected {source} to be a .csv or .parquet file, or to contain {split}.csv or {split}.parquet"
    if tables:
        raise SourceError(f"{expected}, not both; give --source the one to read")
    there = sorted(path.name for suffix in _FORMATS for path in source.glob(f"*{suffix}"))
    raise SourceError(f"{expected}; it contains {listed(there)}" if there else expected)


def _columns(table: Path) -> list[str]:
    return csv_columns(table) if table.suffix == ".csv" else parquet_columns(table)


def _rows(table: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The values of these columns."""
    read = read_csv if table.suffix == ".csv" else read_parquet_columns
    yield from read(table, *columns)
