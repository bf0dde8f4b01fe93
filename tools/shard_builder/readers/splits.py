"""Which part of a source belongs to a split: by name only, and never another part in its stead."""

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
    """`source/split` where that is a folder. Else `source` itself, unless its folders look like other splits.

    A folder looks like a split by its name (`val`, `test2017`, ...). Where `has_classes`, a class may have such a name
    too ("train", of vehicles): then it counts only if it has folders, or if all folders look like splits.

    Raises:
        SourceError: the source cannot be read, or has other splits only; the message lists what is there.
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
    """The sub-folders, sorted, without those that operating systems make, and without links to a folder above.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        here = folder.resolve(strict=True)
        above = (here, *here.parents)
        folders = [entry for entry in os.scandir(folder) if entry.is_dir() and not is_system_file(entry.name)]
        return sorted(
            entry.name for entry in folders if not (entry.is_symlink() and Path(entry.path).resolve() in above)
        )
    except OSError as error:
        raise SourceError(f"cannot read source {error.filename or folder}: {error.strerror}") from None


def of_split(names: Iterable[str], split: str) -> list[str]:
    """The file names that have `split` in them as a word of its own: `train-0.tar`, `cc3m-train-0001.tar`."""
    return [name for name in names if re.search(rf"(?<![a-z0-9]){re.escape(split)}(?![a-z0-9])", name.lower())]


def of_other_splits(names: Iterable[str]) -> list[str]:
    """The file names that have a usual name of a split in them as a word of its own."""
    return [name for name in names if re.search(rf"(?<![a-z])({_WORDS})(?![a-z])", name.lower())]
