"""What a source of images has to offer, and the one place where a data set's path becomes a key."""

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
    """The source of a build cannot be read or is not laid out as expected; the message names the file or folder.

    A garbled file may hold a name without end: the middle of a very long message is left out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > 2 * _HALF_MESSAGE:
            message = f"{message[:_HALF_MESSAGE]} ... {message[-_HALF_MESSAGE:]}"
        super().__init__(message)


class ByteSource(Protocol):
    """Where the bytes of one image, or of its metadata, are. Instances are small, hold no open file, and are pickled
    to the workers."""

    @property
    def num_bytes(self) -> int:
        """Of the image, for planning: exact where the source knows it without reading, else an estimate."""

    def read(self) -> bytes:
        """The encoded image, or the JSON text.

        Raises:
            OSError: it cannot be read, or is not what it was when the build was planned.
        """


class Record(NamedTuple):
    """One image of a source, not yet read."""

    key: str
    path: str
    """Relative to the source, with `/`, also into archives: the same on every machine, and unique."""
    label: Label
    source: ByteSource
    metadata: ByteSource | None = None
    """What the source knows beside the label, as JSON text; None where that is nothing."""

    @property
    def num_bytes(self) -> int:
        """Of the encoded image, for planning."""
        return self.source.num_bytes

    @classmethod
    def of(cls, path: str, label: Label, source: ByteSource, metadata: ByteSource | None = None) -> Self:
        """A record whose key follows from its path."""
        return cls(make_key(path), path, label, source, metadata)


class Lost(NamedTuple):
    """An image of a source that cannot be taken. It becomes a reject of the build."""

    path: str
    """As that of a `Record`."""
    reason: str


class Other(NamedTuple):
    """Something in a source that is no image. It is counted, and no reason to end a build."""

    path: str
    kind: str
    """What it is counted as: its suffix, for example ".txt"."""


Seen: TypeAlias = Record | Lost | Other
"""What a reader comes upon: everything, so that whatever is left out can be counted and named."""


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read where its layout leaves a choice."""

    unlabelled: bool = False
    """Take images only: no labels, and so no classes."""
    label_column: str | None = None
    """Of a table; None: one with a usual name."""
    nfc: bool = False
    """Write class names in Unicode's composed form, so that names from different systems are equal."""
    class_list: tuple[str, ...] | None = None
    """The classes to number labels by: those of another data set; labels go to them by name."""


class Reader(Protocol):
    """A source of images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in it. Empty where the images are unlabelled."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about choices that the reader made, for the user to see."""

    def seen(self) -> Iterator[Seen]:
        """Every image, and whatever else lies in the source, in a fixed order, without reading the content of images.

        May be asked for more than once. What operating systems put beside one's files is passed over.

        Raises:
            SourceError: an image or an annotation that should be there is not.
        """

    def records(self) -> Iterator[Record]:
        """The images that can be taken."""


@dataclass(frozen=True)
class Listing:
    """The reader that most data sets need: classes, and a function that lists what is there."""

    classes: tuple[str, ...]
    list_seen: Callable[[], Iterator[Seen]]
    notes: tuple[str, ...] = ()

    def seen(self) -> Iterator[Seen]:
        return self.list_seen()

    def records(self) -> Iterator[Record]:
        return (item for item in self.list_seen() if isinstance(item, Record))


def without_labels(reader: Reader) -> Listing:
    """The images of a reader, unlabelled."""

    def seen() -> Iterator[Seen]:
        return (item._replace(label=None) if isinstance(item, Record) else item for item in reader.seen())

    return Listing((), seen, reader.notes)


def fixed_layout(read: Callable[[Path, str], Reader]) -> Callable[[Path, str, ReadOptions], Reader]:
    """The reader of a data set whose layout leaves nothing to choose but to take its labels or not."""

    def read_with_options(source: Path, split: str, options: ReadOptions) -> Reader:
        reader = read(source, split)
        return without_labels(reader) if options.unlabelled else reader

    return read_with_options


def make_key(path: str) -> str:
    """The key of the image at `path` (relative, without its suffix where there is one): slug, dash, digest.

    The slug is the path in lower case, with every run of other characters than `[a-z0-9_]` as one dash, cut on
    the left; the digest is that of the exact path. So a key is readable, depends on nothing but its own path
    (adding or removing files changes no other key), and two paths differ in it even where their slugs are equal.
    """
    folder, slash, name = path.rpartition("/")
    stem = folder + slash + (name.rpartition(".")[0] or name)
    slug = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-")[-_SLUG_LENGTH:]
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    return f"{slug}-{digest}"
