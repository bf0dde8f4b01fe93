"""Byte sources of encoded images: in single files, in archives, in text.

Archives are read in place, each image by its offset. No archive has to be unpacked, and no worker keeps an index of an
archive in memory.
"""

import base64
import json
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.pixels import MAX_IMAGE_BYTES
from tools.shard_builder.readers.base import ByteSource, SourceError

_ZIP_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP_DEFLATED = 8


class UnusableError(OSError):
    """An image of the source cannot be taken; the message is the reason."""


class ChangedError(OSError):
    """The source has changed since the build was planned."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file: `root/path`."""

    root: str
    path: str
    num_bytes: int

    @classmethod
    def at(cls, root: Path, path: str, *, may_lead_out: bool = False) -> Self:
        """A file source with the present size of the file.

        Args:
            may_lead_out: Whether `path` may be absolute or contain `..`. Lists that come with a data set may not.

        Raises:
            SourceError: there is no such file, or it lies outside `root`.
        """
        if not may_lead_out and (path.startswith("/") or ".." in path.split("/")):
            raise SourceError(f"a list names {path!r}, which leads out of {root}; correct the list")
        if "\0" in path:
            raise SourceError(f"expected an image at {str(root / path)!r}: a path cannot hold a NUL byte")
        try:
            status = os.stat(root / path)
        except (OSError, ValueError) as error:  # ValueError: the path is no text that a file system can take
            raise SourceError(f"expected an image at {root / path}: {getattr(error, 'strerror', error)}") from None
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"expected an image at {root / path}: it is not a file")
        return cls(str(root), path, status.st_size)

    def read(self) -> bytes:
        check_size(self.num_bytes)
        with open(os.path.join(self.root, self.path), "rb", buffering=0) as file:
            data = file.read(self.num_bytes + 1)
            num_bytes = os.fstat(file.fileno()).st_size
        if len(data) != self.num_bytes:
            raise ChangedError(f"its size changed during the build, from {self.num_bytes} to {num_bytes} bytes")
        return data


@dataclass(frozen=True, slots=True)
class UnusableSource:
    """An image that is known in advance to be unusable."""

    reason: str
    num_bytes: int = 0

    def read(self) -> bytes:
        raise UnusableError(self.reason)


@dataclass(frozen=True, slots=True)
class RangeSource:
    """A range of a larger file, such as a member of an uncompressed or nested tar."""

    archive: str
    offset: int
    num_bytes: int

    def read(self) -> bytes:
        return read_range(self.archive, self.offset, self.num_bytes)


@dataclass(frozen=True, slots=True)
class ZipSource:
    """A member of a zip, stored or compressed with deflate."""

    archive: str
    header_offset: int
    method: int
    num_compressed_bytes: int
    num_bytes: int
    crc32: int

    def read(self) -> bytes:
        check_size(self.num_bytes)  # the bytes that deflate makes of a few
        header = read_range(self.archive, self.header_offset, _ZIP_LOCAL_HEADER.size)
        *_, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)  # the central directory may have other lengths
        start = self.header_offset + _ZIP_LOCAL_HEADER.size + name_length + extra_length
        data = read_range(self.archive, start, self.num_compressed_bytes)
        try:
            if self.method == _ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.num_bytes + 1)
        except zlib.error as error:
            raise OSError(f"damaged in {self.archive}: {error}") from None
        if len(data) != self.num_bytes or zlib.crc32(data) != self.crc32:
            raise OSError(f"damaged in {self.archive}: its checksum does not match")
        return data


@dataclass(frozen=True, slots=True)
class Base64Source:
    """An image in base64, a range of a text file."""

    archive: str
    offset: int
    num_characters: int
    num_bytes: int

    def read(self) -> bytes:
        try:
            return base64.b64decode(read_range(self.archive, self.offset, self.num_characters), validate=True)
        except ValueError as error:
            raise OSError(f"no valid base64 in {self.archive} at byte {self.offset}: {error}") from None


@dataclass(frozen=True, slots=True)
class TextSource:
    """A text in memory."""

    text: str

    @property
    def num_bytes(self) -> int:
        return len(self.text.encode())

    def read(self) -> bytes:
        return self.text.encode()


@dataclass(frozen=True, slots=True)
class MetadataSource:
    """The metadata of an image in a shard: `{"path": ..., "metadata": ...}`; the second comes from the source."""

    path: str
    source: ByteSource | None

    @property
    def num_bytes(self) -> int:
        return len(self._wrapped(None)) + (self.source.num_bytes if self.source else 0)

    def read(self) -> bytes:
        if not self.source:
            return self._wrapped(None)
        try:
            # Python writes NaN into JSON, but NaN is no valid JSON.
            return self._wrapped(json.loads(self.source.read(), parse_constant=lambda _: None))
        except (ValueError, RecursionError):
            raise OSError("its metadata are no valid JSON") from None

    def _wrapped(self, metadata: Any) -> bytes:
        known = {"path": readable(self.path)} | ({} if metadata is None else {"metadata": metadata})
        return json.dumps(known, sort_keys=True, allow_nan=False).encode()


def check_size(num_bytes: int) -> None:
    """Refuse what is too large for an image or its metadata, before it is read: a header may claim any size.

    Raises:
        UnusableError: it has more than `MAX_IMAGE_BYTES`.
    """
    if num_bytes > MAX_IMAGE_BYTES:
        raise UnusableError(f"it has {num_bytes:,} bytes, more than the largest image, {MAX_IMAGE_BYTES:,}")


def read_range(path: str, offset: int, num_bytes: int) -> bytes:
    """Read exactly these bytes of a file.

    Raises:
        OSError: the file cannot be read, or is too short, or the range is larger than any image.
    """
    check_size(num_bytes)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise ChangedError(f"{path} ends before byte {offset + num_bytes}: it is cut, or it changed during the build")
    return data


def readable(path: str) -> str:
    """A path as valid UTF-8 text: other bytes of a file name become escapes."""
    return path.encode("utf-8", "backslashreplace").decode()
