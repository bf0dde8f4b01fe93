"""Parquet: tables of values, and tables in the layout of Hugging Face's data sets, which hold the images themselves.

A Parquet file can only be decoded a row group at a time. Where row groups are large, build with `--no-shuffle`: the
rows of a group are then wanted one after the other, and each group is decoded once.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.extras import optional_module
from tools.shard_builder.readers.annotations import reading
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError

_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """The image in one row of a Parquet file."""

    table: str
    column: str
    row_group: int
    row: int
    """In the row group."""
    num_bytes: int
    """The mean of the row group."""

    def read(self) -> bytes:
        value = _read_row_group(self.table, self.column, self.row_group)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise OSError(f"row {self.row} of row group {self.row_group} holds no bytes")
        return bytes(data)


@dataclass(frozen=True, slots=True)
class ParquetRowSource:
    """Some columns of one row, as JSON."""

    table: str
    columns: tuple[str, ...]
    row_group: int
    row: int
    num_bytes: int
    """The mean of the row group, as Parquet stores them."""

    def read(self) -> bytes:
        values = {name: _read_row_group(self.table, name, self.row_group)[self.row].as_py() for name in self.columns}
        return json.dumps(values, default=str).encode()


def parquet_images(source: Path, split: str, options: ReadOptions) -> Reader:
    """`[data/]<split>-*.parquet` with a column of encoded images and, unless they are without classes, one of numbers.

    Class names are those of the schema that Hugging Face's `datasets` writes, else the numbers. Metadata are the
    other columns, but for those that hold bytes.
    """
    tables = _find_tables(source, split)
    schema = _open(tables[0]).schema_arrow
    image = _first_column(tables[0], schema.names, ("image", "img", "jpg", "png", "webp"))
    label = next((name for name in ("label", "fine_label", "cls") if name in schema.names), None)
    if options.unlabelled:
        label = None
    classes = _class_names(schema, label)
    if classes is None:
        classes = _numbers(tables, label)
    is_other = {field.name: field.name not in (image, label) and "binary" not in str(field.type) for field in schema}
    others = tuple(filter(is_other.get, schema.names))

    def records() -> Iterator[Record]:
        for table in tables:
            yield from _records(table, image, label, others, len(classes))

    return Listing(classes, records)


def read_parquet_columns(table: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of the named columns, streamed.

    Raises:
        SourceError: the file or a column is missing, or pyarrow is not installed.
    """
    file = _open(table)
    for name in columns:
        _first_column(table, file.schema_arrow.names, (name,))
    with reading(table, "a Parquet file"):
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def parquet_columns(table: Path) -> list[str]:
    """The names of the columns."""
    return list(_open(table).schema_arrow.names)


def _records(table: Path, image: str, label: str | None, others: tuple[str, ...], num_classes: int) -> Iterator[Record]:
    file = _open(table)
    first = 0
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        num_bytes = _column_bytes(metadata, image) // max(1, metadata.num_rows)
        num_other_bytes = sum(_column_bytes(metadata, name) for name in others) // max(1, metadata.num_rows)
        labels = file.read_row_group(group, columns=[label])[label].to_pylist() if label else [None] * metadata.num_rows
        for row, number in enumerate(labels):
            if label and (not isinstance(number, int) or not 0 <= number < num_classes):
                raise SourceError(f"row {first + row} of {table} has label {number!r}; expected 0 to {num_classes - 1}")
            source = ParquetSource(str(table), image, group, row, num_bytes)
            rest = ParquetRowSource(str(table), others, group, row, num_other_bytes) if others else None
            yield Record.of(f"{table.name}/{first + row:08d}", number, source, rest)
        first += metadata.num_rows


def _column_bytes(metadata: Any, column: str) -> int:
    """Of a column, with everything nested in it, in one row group."""
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _find_tables(source: Path, split: str) -> list[Path]:
    for folder in (source / "data", source):
        if tables := sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]):
            return tables
    raise SourceError(f"expected {source}/data/{split}-*.parquet or {source}/{split}-*.parquet, neither is there")


def _first_column(table: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    if found := next((name for name in wanted if name in names), None):
        return found
    raise SourceError(f"{table} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(names)}")


def _class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
    if label is None:
        return ()
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _numbers(tables: list[Path], label: str | None) -> tuple[str, ...]:
    assert label is not None
    with reading(tables[0], f"a table whose column {label!r} holds class numbers"):
        largest = max(number for table in tables for (number,) in read_parquet_columns(table, label))
        return tuple(str(number) for number in range(largest + 1))


def _open(table: Path) -> Any:
    parquet = optional_module("pyarrow.parquet")
    with reading(table, "a Parquet file"):
        return parquet.ParquetFile(table)


@lru_cache(16)  # columns of a row group or two
def _read_row_group(table: str, column: str, row_group: int) -> Any:
    return _open(Path(table)).read_row_group(row_group, columns=[column])[column]
