"""Parsers of annotation files, one per format, shared by all data sets. Every error names the file."""

import contextlib
import csv
import errno
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from pipeline.console.extras import optional_module
from tools.shard_builder.readers.base import SourceError

T = TypeVar("T")

# What parsers raise on garbled files. A garbled number may ask for too much memory.
_FAULTS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, NotImplementedError, EOFError,
    MemoryError, csv.Error, zlib.error, ElementTree.ParseError,
)  # fmt: skip


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any error while `path` is read and parsed into one sentence that says `what` was expected."""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait forever
            raise OSError(errno.EINVAL, "it is not a file")
        yield
    except OSError as error:
        raise SourceError(f"expected {what} at {path}: {error.strerror or error}") from None
    except SourceError:
        raise
    except Exception as error:
        if not isinstance(error, _FAULTS) and type(error).__module__ != "pyarrow.lib":
            raise
        raise SourceError(f"{path} is not {what}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """The message of an exception on one line, never empty."""
    return " ".join(str(error).split()) or type(error).__name__


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a text file."""
    with reading(path, "a text file"):
        return [line.strip() for line in path.read_text("utf-8-sig").split("\n") if line.strip()]


def nth(items: Sequence[T], number: int) -> T:
    """An item of a list that counts from 1.

    Raises:
        IndexError: there is no such item.
    """
    if number < 1:
        raise IndexError(f"there is no item {number}: they count from 1")
    return items[number - 1]


def read_pairs(path: Path, separator: str | None = None) -> Iterator[tuple[str, str]]:
    """Per line: the first column, and the rest."""
    for line in read_lines(path):
        first, *rest = line.split(separator, 1)
        if not rest:
            raise SourceError(f"{path} is not a text file of two columns: {line[:80]!r}")
        yield first, rest[0].strip()


def read_csv(path: Path, *columns: str, delimiter: str = ",") -> Iterator[tuple[str, ...]]:
    """The rows of the named columns of a CSV file with a header, streamed.

    Raises:
        SourceError: the file or a column is missing, or a row is too short or too long.
    """
    expected = f"a table with the columns {', '.join(columns)}"
    with reading(path, expected), open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(rows, [])]
        for name in columns:
            if (count := header.count(name)) != 1:
                has = f"{count} columns" if count else "no column"
                raise SourceError(
                    f"{path} has {has} {name!r}; expected {', '.join(columns)}; it has {', '.join(header) or 'none'}"
                )
        positions = [header.index(name) for name in columns]
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells, its header has {len(header)}")
            if row:
                yield tuple(row[position].strip() for position in positions)


def csv_columns(path: Path) -> list[str]:
    """The column names of a CSV file with a header."""
    with reading(path, "a table with a header"), open(path, newline="", encoding="utf-8-sig") as file:
        return [name.strip() for name in next(csv.reader(file, skipinitialspace=True, strict=True), [])]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line."""
    with reading(path, "a file of one JSON object per line"):
        return [dict(json.loads(line)) for line in read_lines(path)]


def read_mat(path: Path, variable: str) -> Any:
    """A variable of a MATLAB file (format before 7.3), without dimensions of length one."""
    loadmat = optional_module("scipy.io").loadmat
    with reading(path, f"a MATLAB file with the variable {variable!r}"):
        try:
            return loadmat(path, squeeze_me=True)[variable]
        except OSError:
            raise
        except Exception as error:  # on garbled bytes the parser may raise anything
            raise ValueError(error) from None


def read_voc_objects(path: Path) -> list[tuple[str, bool]]:
    """The objects of a Pascal VOC annotation: class, and whether the object is marked as difficult."""
    with reading(path, "a Pascal VOC annotation"):
        items = ElementTree.parse(path).getroot().iter("object")
        return [(item.findtext("name", "").strip(), item.findtext("difficult", "").strip() == "1") for item in items]
