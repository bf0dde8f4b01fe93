"""Find the tars of a split in a folder, and the other files there."""

import re
from pathlib import Path
from typing import NamedTuple

from tools.shard_builder.readers.base import Lost, Other, SourceError
from tools.shard_builder.readers.file_kinds import is_system_file, suffix_of
from tools.shard_builder.readers.splits import of_other_splits, of_split
from tools.shard_builder.readers.wording import listed

_COMPRESSED = re.compile(r".*\.(tar\.(gz|bz2|xz|zst|lz4|lzma|br|z)|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
_KNOWN = re.compile(  # files that a build writes beside tars
    r"(manifest|wids|\d+_stats)\.json|rejects\.jsonl|classes\.txt|.*\.idx|.*\.(index|samples)\.npy|shards\.npy",
    re.IGNORECASE,
)


class TarFiles(NamedTuple):
    """The tars to read, and the files that are not read."""

    folder: Path
    tars: list[Path]
    left_out: tuple[Lost | Other, ...]
    notes: tuple[str, ...]


def find_tars(source: Path, split: str) -> TarFiles:
    """The tars of a split. Compressed tars are lost.

    If `source/split/` is a folder, all tars in it. Else the tars of `source` with the split in their names. If there
    are none, and no name contains another split, all tars of `source`.

    Raises:
        SourceError: there are no tars, or only tars of other splits; the message lists them.
    """
    folder = source / split if (source / split).is_dir() else source
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not is_system_file(path.name))
    except OSError as error:
        raise SourceError(f"expected uncompressed tars at {folder}/*.tar: {error.strerror}") from None
    archives = [name for name in names if name.lower().endswith(".tar") or _COMPRESSED.fullmatch(name)]
    mine = archives
    notes: tuple[str, ...] = ()
    if folder == source:
        mine = of_split(archives, split)
        if not mine:
            if of_other_splits(archives):
                raise SourceError(
                    f"expected {source}/{split}/*.tar or {source}/{split}-*.tar, neither is there; it holds "
                    f"{listed(archives)}"
                )
            mine, notes = archives, (f"no tar of {source} has the name {split}-*.tar: taking all {len(archives)}",)
        elif rest := sorted(set(archives) - set(mine) - set(of_other_splits(archives))):
            notes = (f"{len(rest)} tars of {source} have no split in their names and are not read: {listed(rest)}",)
    tars = [folder / name for name in mine if name.lower().endswith(".tar")]
    compressed = [name for name in mine if not name.lower().endswith(".tar")]
    if not tars:
        found = (
            f"only compressed ones are there, {listed(compressed)}: decompress them" if compressed else "none is there"
        )
        raise SourceError(f"expected uncompressed tars at {folder}/*.tar, {found}")
    lost = [Lost(name, "it is a compressed tar; decompress it, for images are read in place") for name in compressed]
    others = [Other(name, suffix_of(name)) for name in names if name not in archives and not _KNOWN.fullmatch(name)]
    return TarFiles(folder, tars, (*lost, *others), notes)
