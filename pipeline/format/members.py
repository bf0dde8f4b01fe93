"""The files in a tar of ours, from front to back. A hostile tar is refused, and cannot ask for more memory than it has.

Why not `tarfile` alone: it follows links, joins sparse files, and believes every size that a header claims. Our tars
have plain files only, so a header of any other kind is a fault.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.pixels import MAX_IMAGE_BYTES

END_MARK = bytes(2 * tarfile.BLOCKSIZE)
HEADER_BYTES = tarfile.BLOCKSIZE


class TarError(UserError):
    """A shard is truncated, or does not have this layout. The message names the file and the fault."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """First byte of its content in the tar."""
    num_bytes: int

    @property
    def num_padding_bytes(self) -> int:
        """Zeros after the content, up to the next header."""
        return -self.num_bytes % tarfile.BLOCKSIZE


def read_header(header: bytes, begin: int, shard: object) -> Member:
    """The file whose header begins at byte `begin` of `shard`.

    Raises:
        TarError: this is no header, or that of a link, a device, a sparse or a too large file.
    """
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise TarError(f"shard {shard} has no sample at byte {begin}: {error}") from None
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise TarError(f"shard {shard}: member {info.name} is no plain file, but perhaps a link or a sparse file")
    if not 0 <= info.size <= MAX_IMAGE_BYTES:
        raise TarError(f"shard {shard}: member {info.name} claims {info.size} bytes, more than {MAX_IMAGE_BYTES}")
    return Member(info.name, begin + HEADER_BYTES, info.size)


def iter_members(path: str | Path) -> Iterator[tuple[Member, bytes]]:
    """Each file of a tar with its content, which is shorter than `num_bytes` if the tar is cut.

    Raises:
        TarError: see `read_header`; or the tar cannot be read, or its end mark is missing.
    """
    try:
        with open(path, "rb") as file:
            size, place = os.fstat(file.fileno()).st_size, 0
            while (header := file.read(HEADER_BYTES)) and any(header):
                member = read_header(header, place, path)
                content = file.read(min(member.num_bytes, size))
                yield member, content
                place = file.seek(member.num_padding_bytes, os.SEEK_CUR)
            file.seek(place)
            tail = file.read(2 * tarfile.RECORDSIZE + 1)
    except OSError as error:
        raise TarError(f"cannot read shard {path}: {error.strerror or error}") from None
    if not tail.startswith(END_MARK) or tail.strip(b"\0") or len(tail) > 2 * tarfile.RECORDSIZE:
        raise TarError(f"shard {path} has no end-of-archive mark at byte {place}: it is truncated or garbled")
