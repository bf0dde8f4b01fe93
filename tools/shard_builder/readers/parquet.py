"""Parquet: tables of values, and tables with images in the layout of Hugging Face's data sets.

Parquet decodes whole row groups only. If row groups are large, build with `--no-shuffle`: then the rows of a group are
read one after the other, and each group is decoded once.
"""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.console.extras import optional_module
from tools.shard_builder.readers.annotations import reading
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError
from tools.shard_builder.readers.labels import Classes, fault_of, label_column, numbers, plain
from tools.shard_builder.readers.wording import listed

_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """The image in one row of a Parquet file."""

    table: str
    column: str
    row_group: int
    row: int
    """Position in the row group."""
    num_bytes: int
    """Mean over the row group."""

    def read(self) -> bytes:
        value = _read_row_group(self.table, self.column, self.row_group)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data or not isinstance(data, bytes):
            raise OSError(f"row {self.row} of row group {self.row_group} has no image bytes")
        return data


@dataclass(frozen=True, slots=True)
class ParquetRowSource:
    """Some columns of one row, as JSON."""

    table: str
    columns: tuple[str, ...]
    row_group: int
    row: int
    num_bytes: int
    """Mean over the row group, as Parquet stores the columns."""

    def read(self) -> bytes:
        values = {name: _read_row_group(self.table, name, self.row_group)[self.row].as_py() for name in self.columns}
        return json.dumps(values, default=str).encode()


def parquet_images(source: Path, split: str, options: ReadOptions) -> Reader:
    """Read `[data/]<split>-*.parquet` with a column of encoded images and a column of labels (unless unlabelled).

    If the schema has class names, as Hugging Face's `datasets` writes them, labels are numbers of these classes. Else
    labels become classes as in `labels.py`. All other columns, except those of bytes, become metadata.
    """
    tables = _find_tables(source, split)
    schema = _open(tables[0]).schema_arrow
    image = _first_column(tables[0], schema.names, ("image", "img", "jpg", "png", "webp"))
    notes: tuple[str, ...] = ()
    label = None
    if not options.unlabelled:
        candidates = [name for name in schema.names if name != image]
        label, others_usual = label_column(candidates, options.label_column, tables[0])
        if label is None:
            notes = (f"no label column among {listed(candidates)} of {tables[0]}; building unlabelled",)
        elif others_usual:
            notes = (f"the labels of {tables[0]} are its column {label!r}, not {listed(others_usual)}",)
    names = _class_names(schema, label)
    classes = None if names or label is None else Classes(_labels(tables, label), f"column {label!r} of {tables[0]}")
    is_other = {field.name: field.name not in (image, label) and "binary" not in str(field.type) for field in schema}
    columns = _Columns(image, label, tuple(filter(is_other.get, schema.names)))

    def records() -> Iterator[Record]:
        for table in tables:
            with reading(table, "a Parquet file like the first of its split"):
                yield from _records(table, columns, classes, len(names or ()))

    return Listing(classes.names if classes else names or (), records, notes)


class _Columns(NamedTuple):
    image: str
    label: str | None
    others: tuple[str, ...]


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
    """The column names of a Parquet file."""
    return list(_open(table).schema_arrow.names)


def _labels(tables: list[Path], label: str) -> Iterator[str | tuple[str, ...]]:
    for table in tables:
        for row, (value,) in enumerate(read_parquet_columns(table, label)):
            yield plain(value, f"row {row} of {table}")


def _records(table: Path, columns: _Columns, classes: Classes | None, num_names: int) -> Iterator[Record]:
    """The rows of one table; `classes` is None if the labels are class numbers already."""
    file = _open(table)
    image, label, others = columns
    first = 0
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        num_bytes = _column_bytes(metadata, image) // max(1, metadata.num_rows)
        num_other_bytes = sum(_column_bytes(metadata, name) for name in others) // max(1, metadata.num_rows)
        values = file.read_row_group(group, columns=[label])[label].to_pylist() if label else [None] * metadata.num_rows
        for row, value in enumerate(values):
            place = f"row {first + row} of {table}"
            found = None
            if classes:
                found = classes.label(plain(value, place))
            elif label:
                found = numbers(value, place)
                if fault_of(found, num_names):
                    hint = "; if it has no label, pass --unlabelled" if found == -1 else ""
                    raise SourceError(f"{place} has label {found}; expected 0 to {num_names - 1}{hint}")
            source = ParquetSource(str(table), image, group, row, num_bytes)
            rest = ParquetRowSource(str(table), others, group, row, num_other_bytes) if others else None
            yield Record.of(f"{table.name}/{first + row:08d}", found, source, rest)
        first += metadata.num_rows


def _column_bytes(metadata: Any, column: str) -> int:
    """Bytes of a column, nested columns included, in one row group."""
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _find_tables(source: Path, split: str) -> list[Path]:
    found = [
        sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")])
        for folder in (source / "data", source)
    ]
    if all(found):
        raise SourceError(f"{source} holds tables in data/ and beside it; give --source the folder of those to read")
    if tables := found[0] or found[1]:
        return tables
    there = sorted(str(path.relative_to(source)) for path in (*source.glob("data/*"), *source.glob("*.parquet")))
    found_instead = f"but found {listed(there)}" if there else "but neither exists"
    raise SourceError(f"expected {source}/data/{split}-*.parquet or {source}/{split}-*.parquet, {found_instead}")


def _first_column(table: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    if found := next((name for name in wanted if name in names), None):
        return found
    raise SourceError(f"{table} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(names)}")


def _class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
    """Class names in the schema, as Hugging Face's `datasets` writes them; None if there are none."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        names = (feature.get("feature") or feature)["names"]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _open(table: Path) -> Any:
    parquet = optional_module("pyarrow.parquet")
    with reading(table, "a Parquet file"):
        if not table.is_file():  # opening a named pipe would wait forever
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return parquet.ParquetFile(table)


@lru_cache(16)  # the columns of one or two row groups
def _read_row_group(table: str, column: str, row_group: int) -> Any:
    try:
        return _open(Path(table)).read_row_group(row_group, columns=[column])[column]
    except Exception as error:  # on garbled bytes a decoder may raise anything
        raise OSError(f"damaged in {table}: {error}") from None
