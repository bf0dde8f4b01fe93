"""The members of tar archives, plain or nested, by their place in the outermost file."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.shard_builder.readers.base import SourceError


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """Of its first byte in the tar or, for a tar in a tar, in the outer one."""
    num_bytes: int


def tar_members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar; only headers are read.

    Raises:
        SourceError: it cannot be read, is compressed, or is cut.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            yield from _members(tar)
    except (tarfile.TarError, OSError) as error:
        raise _fault(path, error) from None


def nested_tar_members(path: Path) -> Iterator[tuple[str, Iterator[Member]]]:
    """The tars in an uncompressed tar: name and files of each. Take the files of one before going on to the next.

    Raises:
        SourceError: as `tar_members`, or a file in it is no tar.
    """
    try:
        with tarfile.open(path, "r:") as outer:
            for name, offset, num_bytes in _members(outer):
                yield name, _inner_members(path, name, offset, num_bytes)
    except (tarfile.TarError, OSError) as error:
        raise _fault(path, error) from None


def _inner_members(path: Path, name: str, offset: int, num_bytes: int) -> Iterator[Member]:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as inner:  # its offsets are those of the outer file
                for member in _members(inner):
                    if member.offset + member.num_bytes > offset + num_bytes:
                        raise tarfile.ReadError("unexpected end of data")
                    yield member
    except (tarfile.TarError, OSError) as error:
        raise _fault(path / name, error) from None


def _members(tar: tarfile.TarFile) -> Iterator[Member]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember them all
        if member.isreg():
            yield Member(member.name, member.offset_data, member.size)


def _fault(path: Path, error: Exception) -> SourceError:
    reason = error.strerror if isinstance(error, OSError) else None
    return SourceError(
        f"cannot read {path} as an uncompressed, whole tar ({reason or error}); images are read from it in place, so "
        "decompress it first where it is compressed"
    )
