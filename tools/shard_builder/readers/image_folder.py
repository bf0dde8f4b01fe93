"""A folder with one sub-folder a class: `SOURCE/[SPLIT/]CLASS/**/IMAGE`."""

import os
from collections.abc import Iterator
from pathlib import Path

from tools.shard_builder.readers.base import Record, SourceError, make_key

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """Reads `source/split/<class>/...` where `source/split` is a folder, else `source/<class>/...`.

    Classes are the sub-folders in sorted order; an image may lie at any depth below its class. Files of other
    suffixes than `SUFFIXES` (in any case) and names that begin with a dot are no images and are left out.
    """

    def __init__(self, source: Path, split: str) -> None:
        self._root = source / split if (source / split).is_dir() else source
        try:
            names = [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
        except OSError as error:
            raise SourceError(f"cannot read source {self._root}: {error.strerror}") from None
        self.classes = tuple(sorted(name for name in names if not name.startswith(".")))
        if not self.classes:
            raise SourceError(f"source {self._root} has no class folders; expected {self._root}/CLASS/IMAGE.jpg")
        if unprintable := [name for name in self.classes if not name.isprintable()]:
            raise SourceError(f"the name of class folder {unprintable[0]!r} is no clean text; rename it")

    def records(self) -> Iterator[Record]:
        for label, name in enumerate(self.classes):
            yield from self._walk(name, label)

    def read(self, record: Record) -> bytes:
        return (self._root / record.path).read_bytes()

    def _walk(self, folder: str, label: int) -> Iterator[Record]:
        try:
            for entry in sorted(os.scandir(self._root / folder), key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from self._walk(path, label)
                elif entry.name.lower().endswith(SUFFIXES):
                    yield Record(make_key(path), path, label, entry.stat().st_size)
        except OSError as error:
            raise SourceError(f"cannot read {error.filename}: {error.strerror}") from None
