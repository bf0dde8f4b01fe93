"""The interface of a source of images, and the function that turns a path into a key."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias

from pipeline.errors import UserError
from pipeline.format.tar import Label

_SLUG_LENGTH = 69  # with the dash and the digest: 80, the longest key of the format
_DIGEST_LENGTH = 10
_HALF_MESSAGE = 500  # characters


class SourceError(UserError):
    """The source of a build cannot be read, or has another layout; the message names the file or folder.

    A garbled file may contain a very long name, so the middle of a very long message is cut out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > 2 * _HALF_MESSAGE:
            message = f"{message[:_HALF_MESSAGE]} ... {message[-_HALF_MESSAGE:]}"
        super().__init__(message)


class ByteSource(Protocol):
    """Where to read the bytes of one image or of its metadata. Instances are small, hold no open file, and are pickled
    to the workers."""

    @property
    def num_bytes(self) -> int:
        """Number of bytes, for planning: exact if the source knows it without reading, else an estimate."""

    def read(self) -> bytes:
        """The encoded image, or the JSON text.

        Raises:
            OSError: it cannot be read, or it has changed since the build was planned.
        """


class Record(NamedTuple):
    """One image of a source, not yet read."""

    key: str
    path: str
    """Relative to the source, with `/`, and continued into archives. Unique, and the same on every machine."""
    label: Label
    source: ByteSource
    metadata: ByteSource | None = None
    """Other facts about the image, as JSON text; None if the source has none."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the encoded image, for planning."""
        return self.source.num_bytes

    @classmethod
    def of(cls, path: str, label: Label, source: ByteSource, metadata: ByteSource | None = None) -> Self:
        """A record with the key that `make_key` gives its path."""
        return cls(make_key(path), path, label, source, metadata)


class Lost(NamedTuple):
    """An image of a source that cannot be taken. It becomes a reject of the build."""

    path: str
    """As in `Record`."""
    reason: str


class Other(NamedTuple):
    """A file in a source that is no image. It is counted and does not stop a build."""

    path: str
    kind: str
    """The name of its count: usually the suffix, for example ".txt"."""


Seen: TypeAlias = Record | Lost | Other
"""An item of a source. Readers yield every file, so that files that are left out can be counted and named."""


@dataclass(frozen=True)
class ReadOptions:
    """The choices of the user in how a source is read."""

    unlabelled: bool = False
    """Take images only: no labels, and so no classes."""
    label_column: str | None = None
    """Column of a table that holds the labels; None: a column with a usual name."""
    nfc: bool = False
    """Write class names in Unicode's composed form (NFC), so that names from different systems are equal."""
    class_list: tuple[str, ...] | None = None
    """Number the classes by their position in this list, found by name; None: as the source numbers them."""


class Reader(Protocol):
    """A source of images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in this tuple. Empty if the images are unlabelled."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about choices that the reader made."""

    def seen(self) -> Iterator[Seen]:
        """Every image and every other file of the source, in a fixed order. Does not read the content of images.

        May be called more than once. System files (such as .DS_Store) are skipped.

        Raises:
            SourceError: an image or an annotation is missing.
        """

    def records(self) -> Iterator[Record]:
        """The images that can be taken."""


@dataclass(frozen=True)
class Listing:
    """The reader of most data sets: classes, and a function that lists the items of the source."""

    classes: tuple[str, ...]
    list_seen: Callable[[], Iterator[Seen]]
    notes: tuple[str, ...] = ()

    def seen(self) -> Iterator[Seen]:
        return self.list_seen()

    def records(self) -> Iterator[Record]:
        return (item for item in self.list_seen() if isinstance(item, Record))


def without_labels(reader: Reader) -> Listing:
    """The reader, without its labels."""

    def seen() -> Iterator[Seen]:
        return (item._replace(label=None) if isinstance(item, Record) else item for item in reader.seen())

    return Listing((), seen, reader.notes)


def fixed_layout(read: Callable[[Path, str], Reader]) -> Callable[[Path, str, ReadOptions], Reader]:
    """Adapt a reader function whose only option is `unlabelled`."""

    def read_with_options(source: Path, split: str, options: ReadOptions) -> Reader:
        reader = read(source, split)
        return without_labels(reader) if options.unlabelled else reader

    return read_with_options


def make_key(path: str) -> str:
    """The key of the image at `path` (relative to the source): slug, dash, digest.

    The slug is the path without its suffix, in lower case, with every run of characters outside `[a-z0-9_]` replaced
    by one dash, cut on the left. The digest is that of the exact path. So a key is readable, depends only on its own
    path (adding or removing files changes no other key), and differs for two paths even if their slugs are equal.
    """
    folder, slash, name = path.rpartition("/")
    stem = folder + slash + (name.rpartition(".")[0] or name)
    slug = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-")[-_SLUG_LENGTH:]
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    return f"{slug}-{digest}"
