"""A folder of images: one sub-folder per class, `SOURCE/[SPLIT/]CLASS/**/IMAGE`, or unlabelled."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.base import Listing, Lost, Other, Reader, ReadOptions, Record, Seen, SourceError
from tools.shard_builder.readers.file_kinds import is_image_content, is_image_name, is_system_file, suffix_of
from tools.shard_builder.readers.sources import FileSource
from tools.shard_builder.readers.splits import folder_names, split_folder
from tools.shard_builder.readers.wording import listed


def image_folder(source: Path, split: str, options: ReadOptions) -> Reader:
    """Read class folders. Unlabelled: take every image at any depth, and ignore class folders.

    Raises:
        SourceError: the folder cannot be read, belongs to another split, or has no class folders and labels are wanted.
    """
    if not options.unlabelled:
        return ImageFolder(source, split)
    root = split_folder(source, split, has_classes=False)
    if root != source and any(is_image_name(name) for name in os.listdir(source)):
        raise SourceError(
            f"{source} has images itself and in {root}; use --source {root} for these only, or move the others there"
        )
    return Listing((), lambda: walk_images(root, "", None))


class ImageFolder:
    """Reads `source/split/<class>/...` if `source/split` is a folder, else `source/<class>/...`.

    Classes are the sub-folders in sorted order; an image may lie at any depth below its class. Images outside the class
    folders are lost, and so are images whose name, or the name of whose folder, begins with a dot.
    """

    def __init__(self, source: Path, split: str) -> None:
        self._root = split_folder(source, split, has_classes=True)
        self.classes = tuple(name for name in folder_names(self._root) if not name.startswith("."))
        if not self.classes:
            raise SourceError(
                f"source {self._root} has no class folders; expected {self._root}/CLASS/IMAGE.jpg, "
                "or pass --unlabelled to take images without classes"
            )
        self.notes: tuple[str, ...] = ()
        if self._root == source and split != ".":
            self.notes = (f"{source} has no folder {split!r}: its own folders are the classes, {listed(self.classes)}",)

    def seen(self) -> Iterator[Seen]:
        for label, name in enumerate(self.classes):
            yield from walk_images(self._root, name, label)
        for item in walk_images(self._root, "", None, excluded=frozenset(self.classes)):
            is_lost = isinstance(item, Record)
            yield Lost(item.path, "it lies beside the class folders, in none of them") if is_lost else item

    def records(self) -> Iterator[Record]:
        return (item for item in self.seen() if isinstance(item, Record))


def walk_images(root: Path, folder: str, label: Label, excluded: frozenset[str] = frozenset()) -> Iterator[Seen]:
    """Every file at any depth below `root/folder` ("": `root` itself), sorted; paths are relative to `root`.

    Entries of `folder` that are in `excluded` are skipped. An image is lost if its name, or the name of a folder on the
    way from `folder`, begins with a dot.

    Raises:
        SourceError: a folder or a file cannot be read.
    """
    try:
        top = (root / folder).resolve(strict=True)
        above = frozenset(_identity(os.stat(place)) for place in (top, *top.parents))
        stack = [(_entries(root / folder, excluded), folder, False, above)]
        while stack:
            entries, place, is_hidden, ancestors = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            path = f"{place}/{entry.name}" if place else entry.name
            hidden = is_hidden or entry.name.startswith(".")
            if entry.is_dir():
                identity = _identity(entry.stat())
                if identity in ancestors:
                    yield Other(path, "link to a folder above it")
                else:
                    stack.append((_entries(Path(entry.path)), path, hidden, ancestors | {identity}))
            elif not hidden:
                yield _file(root, path, entry, label)
            elif is_image_name(path):
                yield Lost(path, "its name, or the name of its folder, begins with a dot")
            else:
                yield Other(path, suffix_of(path))
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror}") from None


def _entries(folder: Path, excluded: frozenset[str] = frozenset()) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    return (entry for entry in ordered if entry.name not in excluded and not is_system_file(entry.name))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _file(root: Path, path: str, entry: "os.DirEntry[str]", label: Label) -> Seen:
    is_image = is_image_name(path)
    if not is_image and not os.path.exists(entry.path):
        return Other(path, "link to nothing")
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "pipe, socket or device"
        return Lost(path, f"it is no file, but a {kind}") if is_image else Other(path, kind)
    if is_image:
        return Record.of(path, label, FileSource(str(root), path, status.st_size))
    if is_image_content(Path(entry.path)):
        return Lost(path, f"it is an image, but its suffix is not that of one: {suffix_of(path)}; rename it")
    return Other(path, suffix_of(path))
