"""What a source of images has to offer."""

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pipeline.errors import UserError

_SLUG_LENGTH = 69  # with the dash and the digest: 80, the longest key of the format
_DIGEST_LENGTH = 10


class SourceError(UserError):
    """The source of a build cannot be read or holds no images; the message names the folder."""


class Record(NamedTuple):
    """One image of a source, not yet read."""

    key: str
    path: str
    """Relative to the source, with `/`: the same on every machine."""
    label: int
    num_bytes: int


class Reader(Protocol):
    """A source of labelled images. Instances are pickled to the worker processes, so they hold no open file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in it."""

    def records(self) -> Iterator[Record]:
        """Every image, in a fixed order, without reading its content."""

    def read(self, record: Record) -> bytes:
        """The encoded image.

        Raises:
            OSError: it cannot be read.
        """


def make_key(path: str) -> str:
    """The key of the image at `path` (relative, without its suffix where there is one): slug, dash, digest.

    The slug is the path in lower case, with every run of other characters than `[a-z0-9_]` as one dash, cut on
    the left; the digest is that of the exact path. So a key is readable, depends on nothing but its own path
    (adding or removing files changes no other key), and two paths differ in it even where their slugs are equal.
    """
    stem = path.rpartition(".")[0] or path
    slug = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-")[-_SLUG_LENGTH:]
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    return f"{slug}-{digest}"
