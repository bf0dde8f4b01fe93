"""Which part of a source belongs to a split. Only names decide, and no other split is taken instead."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from tools.shard_builder.readers.base import SourceError
from tools.shard_builder.readers.file_kinds import is_system_file
from tools.shard_builder.readers.wording import listed

_WORDS = r"train|training|trainval|val|valid|validation|dev|devel|test|testing|eval|evaluation|holdout"
_SPLIT_FOLDER = re.compile(rf"({_WORDS})([-_.]?\d\w*|[-_.]\w+)?", re.IGNORECASE)


def split_folder(source: Path, split: str, *, has_classes: bool) -> Path:
    """The folder of a split: `source/split` if it exists, else `source` itself, unless its folders look like splits.

    A folder looks like a split if its name does (`val`, `test2017`, ...). With `has_classes` a class may have such a
    name too ("train", a vehicle). Then a folder counts as a split only if it has folders, or if all folders look like
    splits.

    Raises:
        SourceError: the source cannot be read, or has only other splits; the message lists them.
    """
    if (source / split).is_dir():
        return source / split
    folders = [name for name in folder_names(source) if not name.startswith(".")]
    others = [name for name in folders if _SPLIT_FOLDER.fullmatch(name)]
    if has_classes and others != folders:
        others = [name for name in others if folder_names(source / name)]
    if others:
        raise SourceError(
            f"{source} has no folder {split!r}, but {listed(others)}; name one of these with --split, "
            f"or give --source the folder that holds the images"
        )
    return source


def folder_names(folder: Path) -> list[str]:
    """The names of the sub-folders, sorted, without system folders and without links to a parent folder.

    Raises:
        SourceError: the folder cannot be read.
    """
    try:
        here = folder.resolve(strict=True)
        above = (here, *here.parents)
        with os.scandir(folder) as entries:
            folders = [entry for entry in entries if entry.is_dir() and not is_system_file(entry.name)]
        return sorted(
            entry.name for entry in folders if not (entry.is_symlink() and Path(entry.path).resolve() in above)
        )
    except OSError as error:
        raise SourceError(f"cannot read source {error.filename or folder}: {error.strerror}") from None


def of_split(names: Iterable[str], split: str) -> list[str]:
    """The file names that contain `split` as a whole word: `train-0.tar`, `cc3m-train-0001.tar`."""
    return [name for name in names if re.search(rf"(?<![a-z0-9]){re.escape(split)}(?![a-z0-9])", name.lower())]


def of_other_splits(names: Iterable[str]) -> list[str]:
    """The file names that contain a usual split name as a whole word."""
    return [name for name in names if re.search(rf"(?<![a-z])({_WORDS})(?![a-z])", name.lower())]
