"""A folder of images: with a sub-folder per class, `SOURCE/[SPLIT/]CLASS/**/IMAGE`, or unlabelled."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError
from tools.shard_builder.readers.sources import FileSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def image_folder(source: Path, split: str, options: ReadOptions) -> Reader:
    """`ImageFolder`, or, unlabelled, every image at any depth below the same folder: class folders mean nothing.

    Raises:
        SourceError: the folder cannot be read, or has no class folders where labels are wanted.
    """
    if not options.unlabelled:
        return ImageFolder(source, split)
    root = split_folder(source, split)
    return Listing((), lambda: walk_images(root, "", None))


def split_folder(source: Path, split: str) -> Path:
    """`source/split` where that is a folder, else `source`."""
    return source / split if (source / split).is_dir() else source


class ImageFolder:
    """Reads `source/split/<class>/...` where `source/split` is a folder, else `source/<class>/...`.

    Classes are the sub-folders in sorted order; an image may lie at any depth below its class. Files of other
    suffixes than `SUFFIXES` (in any case) and names that begin with a dot are no images and are left out.
    """

    def __init__(self, source: Path, split: str) -> None:
        self._root = split_folder(source, split)
        try:
            names = [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
        except OSError as error:
            raise SourceError(f"cannot read source {self._root}: {error.strerror}") from None
        self.classes = tuple(sorted(name for name in names if not name.startswith(".")))
        if not self.classes:
            raise SourceError(
                f"source {self._root} has no class folders; expected {self._root}/CLASS/IMAGE.jpg, "
                "or pass --unlabelled to take images without classes"
            )
        if unprintable := [name for name in self.classes if not name.isprintable()]:
            raise SourceError(f"the name of class folder {unprintable[0]!r} is no clean text; rename it")

    def records(self) -> Iterator[Record]:
        for label, name in enumerate(self.classes):
            yield from walk_images(self._root, name, label)


def walk_images(root: Path, folder: str, label: Label) -> Iterator[Record]:
    """The images at any depth below `root/folder` ("": `root` itself), sorted; their paths are relative to `root`.

    Raises:
        SourceError: a folder or a file cannot be read.
    """
    try:
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from walk_images(root, path, label)
            elif entry.name.lower().endswith(SUFFIXES):
                yield Record.of(path, label, FileSource(str(root), path, entry.stat().st_size))
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror}") from None
