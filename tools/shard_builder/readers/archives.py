"""The members of tar archives, plain or nested, with their offsets in the outermost file."""

import contextlib
import errno
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.format.tar import Label
from tools.shard_builder.readers.base import Lost, Other, Record, Seen, SourceError
from tools.shard_builder.readers.file_kinds import is_image_name, is_system_file, suffix_of
from tools.shard_builder.readers.sources import RangeSource

_CHUNK_BYTES = 2**20  # the longest extended header that is read, too


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """Offset of the first byte of the file, in the outermost tar."""
    num_bytes: int
    fault: str = ""
    """Why the content cannot be read in place; empty if it can."""


# What tarfile raises on garbled headers.
_FAULTS = (tarfile.TarError, OSError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError)


def tar_members(path: Path) -> Iterator[Member]:
    """The files in an uncompressed tar, without folders and system files. Only headers are read.

    Raises:
        SourceError: the tar cannot be read, is compressed, or is cut.
    """
    try:
        with _open(path) as tar:
            yield from _members(tar, path.stat().st_size)
    except _FAULTS as error:
        raise _fault(path, error) from None


def nested_tar_members(path: Path) -> Iterator[tuple[str, Iterator[Member]]]:
    """The tars in an uncompressed tar: name and files of each. Read the files of one tar before the next tar.

    Raises:
        SourceError: as `tar_members`, or a file in the tar is no tar.
    """
    try:
        with _open(path) as outer:
            for member in _members(outer, path.stat().st_size):
                yield member.name, _inner_members(path, member)
    except _FAULTS as error:
        raise _fault(path, error) from None


def member_seen(member: Member, path: str, label: Label, archive: Path) -> Seen:
    """A member as an item of a source: record, lost image or other file. `path` is its path in the source."""
    if not is_image_name(path):
        return Other(path, suffix_of(path))
    if member.fault:
        return Lost(path, f"it is {member.fault} in {archive.name}, not a file")
    return Record.of(path, label, RangeSource(str(archive), member.offset, member.num_bytes))


def _inner_members(path: Path, outer: Member) -> Iterator[Member]:
    try:
        with _TarFile(path) as file:
            file.seek(outer.offset)
            with tarfile.open(fileobj=file, mode="r:") as inner:  # offsets count in the outer file
                yield from _members(inner, outer.offset + outer.num_bytes)
    except _FAULTS as error:
        raise _fault(path / outer.name, error) from None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():  # opening a named pipe would wait forever
        raise OSError(errno.ENOENT, "no such file" if not path.exists() else "not a file")
    with _TarFile(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield tar


class _TarFile(io.FileIO):
    """A file that returns at most `_CHUNK_BYTES` at once: tarfile asks for as much as a header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_CHUNK_BYTES if size is None or size < 0 else min(size, _CHUNK_BYTES))


def _members(tar: tarfile.TarFile, stop: int) -> Iterator[Member]:
    """The members of a tar that ends before byte `stop`."""
    end = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all in memory
        if member.size < 0 or member.offset_data <= end:
            raise tarfile.ReadError("a header is garbled")  # tarfile would loop forever
        end = member.offset_data
        if member.isdir() or any(is_system_file(part) for part in member.name.split("/")):
            continue
        fault = ""
        if not member.isreg():
            fault = "a link" if member.islnk() or member.issym() else "a pipe or device"
        elif member.issparse():
            fault = "a sparse file"
        elif end + member.size > stop:
            raise tarfile.ReadError("unexpected end of data")
        yield Member(member.name, member.offset_data, member.size, fault)
    _check_end(tar, stop)


def _check_end(tar: tarfile.TarFile, stop: int) -> None:
    """Check the end mark. tarfile takes a garbled header, or a file cut between two members, for the end of the tar."""
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    mark = file.read(min(tarfile.BLOCKSIZE, max(0, stop - tar.offset)))
    if len(mark) < tarfile.BLOCKSIZE or any(mark):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset}: the tar is cut or garbled there")
    for start in range(file.tell(), stop, _CHUNK_BYTES):
        if file.read(min(_CHUNK_BYTES, stop - start)).strip(b"\0"):
            raise tarfile.ReadError(f"there is more after its end mark at byte {tar.offset}: are these several tars?")


def _fault(path: Path, error: Exception) -> SourceError:
    reason = error.strerror if isinstance(error, OSError) else None
    return SourceError(
        f"cannot read {path} as an uncompressed, whole tar ({reason or error}); images are read in place, so "
        "decompress the tar first if it is compressed"
    )
