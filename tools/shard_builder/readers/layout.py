"""Find files and class folders in a source, with a clear sentence if something is missing."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.base import Listing, Reader, Record, Seen, SourceError
from tools.shard_builder.readers.image_folder import ImageFolder
from tools.shard_builder.readers.sources import FileSource


def find(source: Path, name: str, *folders: str) -> Path:
    """The path of `name` in the source, or in one of the `folders` that the download may unpack to.

    Raises:
        SourceError: none of these paths exists.
    """
    candidates = [source / name, *(source / folder / name for folder in folders)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise SourceError("expected " + " or ".join(map(str, candidates)) + ", which is not there")


def class_names(dataset: str) -> tuple[str, ...] | None:
    """The published classes of a data set, in the order of the labels; None if `class_names/` does not have them."""
    file = resources.files(__package__) / "class_names" / f"{dataset}.txt"
    return tuple(file.read_text().splitlines()) if file.is_file() else None


def class_folders(root: Path) -> Reader:
    """The reader of `root/<class>/...`, without a folder per split."""
    return ImageFolder(root, ".")


def listed_files(root: Path, rows: Iterable[tuple[str, Label]]) -> Iterator[Record]:
    """One record per (path relative to `root`, label)."""
    return (Record.of(path, label, FileSource.at(root, path)) for path, label in rows)


def named_files(root: Path, rows: Iterable[tuple[str, str]], classes: Iterable[str] | None = None) -> Listing:
    """The reader of (path relative to `root`, class name) pairs; without `classes` the names are sorted.

    Raises:
        SourceError: a name is not among `classes`.
    """
    pairs = list(rows)
    names = tuple(sorted({name for _, name in pairs}) if classes is None else classes)
    labels = {name: label for label, name in enumerate(names)}
    if unknown := next((pair for pair in pairs if pair[1] not in labels), None):
        raise SourceError(f"{root / unknown[0]} is listed with the class {unknown[1]!r}, which does not exist")
    return Listing(names, partial(listed_files, root, [(path, labels[name]) for path, name in pairs]))


def draw(reader: Reader, part: slice) -> Listing:
    """Take `part` of every class, after sorting its images by a hash of their paths.

    For data sets that were published without a split. The draw looks random, is the same on every machine, and disjoint
    slices give disjoint parts.
    """

    def drawn() -> Iterator[Seen]:
        for _, records in itertools.groupby(reader.records(), key=lambda record: record.label):
            yield from sorted(records, key=_draw_order)[part]
        yield from (item for item in reader.seen() if not isinstance(item, Record))

    return Listing(reader.classes, drawn)


def _draw_order(record: Record) -> bytes:
    return hashlib.sha256(record.path.encode("utf-8", "surrogateescape")).digest()
