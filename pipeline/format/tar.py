"""Tar shards: plain USTAR, two members per sample (its label and its image); the same input gives the same bytes.

The label is `<key>.cls`, a class number; in a multi-label data set it is `<key>.json`: `{"labels": [3, 7]}`. The image
follows as `<key>.<ext>`. If a build keeps metadata, `<key>.meta.json` is between label and image. An unlabelled data
set has no label members.

The layout is that of webdataset. In addition, the bytes do not depend on machine or time, the index is made in the same
pass, and truncation is always detected. (Other readers read a tar that is truncated between two members as a shorter
tar.) Headers are those of the standard library; docs/decisions/0004-tar-writer.md says why.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from pipeline.errors import UserError
from pipeline.format.checksum import DigestingWriter, checksum
from pipeline.format.index import INDEX_DTYPE, MULTI_LABEL, UNLABELLED, Index
from pipeline.format.sidecars import IMAGE_EXTENSIONS, Member, dali_index, dali_row

Label = int | tuple[int, ...] | None
"""A position in the manifest's classes; in a multi-label data set, all positions, ascending; None if unlabelled."""

KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,80}")
_METADATA = "meta.json"
_BEFORE_AN_IMAGE: tuple[list[str], ...] = ([], ["cls"], ["json"], [_METADATA], ["cls", _METADATA], ["json", _METADATA])
_MAX_MEMBERS = 3
_NAME_BYTES = 100  # the name field of a header; the name ends at the first zero byte
_END_MARK = bytes(2 * tarfile.BLOCKSIZE)


def _blank_header() -> bytes:
    """The header of an empty file without a name. Time, user and group are 0."""
    info = tarfile.TarInfo("")
    info.mode, info.uname, info.gname = 0o644, "root", "root"
    return info.tobuf(tarfile.USTAR_FORMAT)


_BLANK_HEADER = _blank_header()
_BLANK_SUM = int(_BLANK_HEADER[148:154], 8)


class TarError(UserError):
    """A shard is truncated, or does not have this layout. The message names the file and the fault."""


class TarSample(NamedTuple):
    """One sample as it lies in a shard."""

    key: str
    ext: str
    offset: int
    """First byte of the image in the tar."""
    image: bytes
    label: Label
    metadata: bytes
    """JSON text; empty if the build kept none."""

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels: one, or any number in a multi-label data set, or none if unlabelled."""
        return (self.label,) if isinstance(self.label, int) else self.label or ()

    def class_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The names of the labels; a label without a class is given as a number."""
        return tuple(classes[label] if 0 <= label < len(classes) else str(label) for label in self.labels)


class ShardWriter:
    """Writes one shard from front to back, with one image in memory at a time.

    After `close` (or the `with` block) `digest`, `num_bytes`, `index` and `dali_index` describe the finished file.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        self._digesting = DigestingWriter(self._file)
        self._rows: list[tuple[int, ...]] = []
        self._dali_rows = bytearray()

    def add(
        self,
        key: str,
        ext: str,
        image: bytes,
        label: Label,
        height: int,
        width: int,
        orientation: int,
        metadata: bytes = b"",
    ) -> None:
        """Append a sample: encoded image, size in pixels as stored, and EXIF orientation (1: none)."""
        assert KEY_PATTERN.fullmatch(key), key
        before: list[tuple[str, bytes]] = []
        if isinstance(label, int):
            before.append((f"{key}.cls", str(label).encode()))
        elif label is not None:
            before.append((f"{key}.json", json.dumps({"labels": label}).encode()))
        if metadata:
            before.append((f"{key}.{_METADATA}", metadata))
        head, members = bytearray(), list[Member]()
        for name, content in before:
            head += _header(name, len(content))
            members.append(Member(name, self.num_bytes + len(head), len(content)))
            head += content + _padding(content)
        head += _header(f"{key}.{ext}", len(image))
        members.append(Member(f"{key}.{ext}", self.num_bytes + len(head), len(image)))
        for part in (head, image, _padding(image)):
            self._digesting.write(part)
        checksums = checksum(image), checksum(head)
        self._rows.append((members[-1].offset, *checksums, len(image), index_label(label), height, width, orientation))
        self._dali_rows += dali_row(*members)

    def close(self) -> None:
        """Write the end-of-archive mark, pad the last record and close the file."""
        self._digesting.write(_END_MARK)
        self._digesting.write(bytes(-self.num_bytes % tarfile.RECORDSIZE))
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def digest(self) -> str:
        """BLAKE3 of the tar file, in hex."""
        return self._digesting.digest

    @property
    def num_bytes(self) -> int:
        """Size of the tar file."""
        return self._digesting.num_bytes

    @property
    def index(self) -> Index:
        """One row per sample, in the order of the tar."""
        return np.array(self._rows, dtype=INDEX_DTYPE)

    @property
    def dali_index(self) -> bytes:
        """The index that DALI needs beside the tar."""
        return dali_index(bytes(self._dali_rows), len(self._rows))


def _padding(content: bytes) -> bytes:
    return bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(name: str, num_bytes: int) -> bytes:
    """The same bytes as `TarInfo.tobuf` for a short name, ten times as fast."""
    header, encoded, size = bytearray(_BLANK_HEADER), name.encode(), b"%011o" % num_bytes
    header[: len(encoded)] = encoded
    header[124:135] = size
    header[148:154] = b"%06o" % (_BLANK_SUM + sum(encoded) + sum(size) - sum(b"0" * 11))
    return bytes(header)


def index_label(label: Label) -> int:
    """The label as the index stores it: the label, or `UNLABELLED`, or `MULTI_LABEL` (labels are in the tar only)."""
    if label is None:
        return UNLABELLED
    return label if isinstance(label, int) else MULTI_LABEL


def iter_samples(path: str | Path) -> Iterator[TarSample]:
    """Read a shard from front to back with the standard library, without its index.

    Raises:
        TarError: the file is truncated (also exactly between two members) or no tar, or a label or image is missing.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            while first := tar.next():
                yield _read_sample(path, tar, first)
            end = tar.offset
    except tarfile.TarError as error:
        raise TarError(f"shard {path} is not a whole tar file: {error}") from None
    except OSError as error:
        raise TarError(f"cannot read shard {path}: {error.strerror or error}") from None
    with open(path, "rb") as file:  # tarfile accepts garbage, or a missing end mark, as the end
        file.seek(end)
        tail = file.read(2 * tarfile.RECORDSIZE + 1)
    if not tail.startswith(_END_MARK) or tail.strip(b"\0") or len(tail) > 2 * tarfile.RECORDSIZE:
        raise TarError(f"shard {path} has no end-of-archive mark at byte {end}: it is truncated or garbled")


def parse_sample(data: bytes | memoryview, begin: int, shard: str) -> TarSample:
    """Parse one sample from `data`, all bytes of its members; they begin at byte `begin` of `shard`.

    Raises:
        TarError: the bytes are not the complete members of one sample of this layout.
    """
    members: list[_Member] = []
    place = 0
    try:
        while place < len(data):
            header = tarfile.TarInfo.frombuf(bytes(data[place : place + tarfile.BLOCKSIZE]), "utf-8", "strict")
            place += tarfile.BLOCKSIZE
            content = bytes(data[place : place + header.size])
            members.append(_Member(header.name, begin + place, header.size, content))
            place += header.size + -header.size % tarfile.BLOCKSIZE
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise TarError(f"shard {shard} has no sample at byte {begin}: {error}") from None
    if not 1 <= len(members) <= _MAX_MEMBERS:
        raise TarError(f"shard {shard} has {len(members)} files where one sample should be, at byte {begin}")
    sample = _sample(shard, members)
    if not KEY_PATTERN.fullmatch(sample.key):
        raise TarError(f"shard {shard}: member {members[0].name} does not have the name of a sample")
    return sample


def parse_key(head: bytes | memoryview) -> str:
    """The key of a sample, from its first bytes: they are the header of a member."""
    return str(bytes(head[:_NAME_BYTES]).partition(b".")[0], "ascii", "replace")


class _Member(NamedTuple):
    name: str
    offset: int
    num_bytes: int
    """Size according to the header; `content` may be shorter."""
    content: bytes


def _read_sample(path: str | Path, tar: tarfile.TarFile, first: tarfile.TarInfo) -> TarSample:
    members: list[_Member] = []
    member: tarfile.TarInfo | None = first
    while member:
        file = tar.extractfile(member)
        members.append(_Member(member.name, member.offset_data, member.size, file.read() if file else b""))
        is_last = len(members) == _MAX_MEMBERS or member.name.partition(".")[2] in IMAGE_EXTENSIONS
        member = None if is_last else tar.next()
    return _sample(path, members)


def _sample(path: str | Path, members: Sequence[_Member]) -> TarSample:
    """The sample of these members: label and metadata, if present, and image."""
    *before, image = members
    key, _, ext = image.name.partition(".")
    suffixes = [member.name.removeprefix(f"{key}.") for member in before]
    if ext not in IMAGE_EXTENSIONS or suffixes not in _BEFORE_AN_IMAGE:
        raise TarError(f"shard {path}: member {members[0].name} is not followed by the image of its sample")
    is_labelled, has_metadata = suffixes[:1] in (["cls"], ["json"]), suffixes[-1:] == [_METADATA]
    label = _parse_label(suffixes[0], before[0].content) if is_labelled else None
    if len(image.content) != image.num_bytes or (is_labelled and label is None):
        raise TarError(f"shard {path}: sample {key} is truncated or garbled")
    return TarSample(key, ext, image.offset, image.content, label, before[-1].content if has_metadata else b"")


def _parse_label(suffix: str, content: bytes) -> Label | None:
    """The label; None if garbled."""
    if suffix == "cls":
        return int(content) if content.isdigit() else None
    try:
        labels = json.loads(content)["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(labels) if isinstance(labels, list) and all(type(label) is int for label in labels) else None
