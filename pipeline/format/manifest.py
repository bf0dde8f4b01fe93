"""The manifest: the only file that links the shard builder and the trainer.

It has two files. `manifest.json` is the head: a few fields, and the digest of the other file. `shards.npy` names every
shard with its size and digests (`shard_table`). The head is written last: a destination without it is unfinished. Both
hold no time, host or path, so the same input gives the same bytes. The head has a checksum of its own content, which
identifies the data set.
"""

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, InstanceOf, NonNegativeInt, PositiveInt, ValidationError, model_validator

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import Readable, digest_bytes
from pipeline.format.rows import RowsError
from pipeline.format.shard_table import TABLE_NAME, ShardTable

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION: Literal[2] = 2


class ManifestError(UserError):
    """The manifest has another version, is not valid, or contradicts itself. The message names its source."""


class DamagedManifestError(ManifestError):
    """The content of a manifest does not have its checksum. Perhaps it was damaged on the way: read it once more."""


class Spread(Config):
    """Smallest value, median (lower of the middle two) and largest value of a quantity over all samples."""

    min: int
    median: int
    max: int


class Manifest(Config):
    """The head of a data set, and its `shards`; labels are positions in `classes`."""

    schema_version: Literal[2] = SCHEMA_VERSION
    dataset: str
    split: str
    classes: tuple[str, ...]
    """Empty where the data set is unlabelled."""
    shards: InstanceOf[ShardTable]
    num_samples: PositiveInt
    num_bytes: PositiveInt
    """Sum over the tar files."""
    num_rejects: NonNegativeInt
    """Number of images of the source that are in no shard; `rejects.jsonl` lists them."""
    left_out: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Number of files of the source that are no images, by suffix or kind."""
    image_height: Spread
    """In pixels, as stored, before any EXIF rotation."""
    image_width: Spread
    image_bytes: Spread
    """Size of one encoded image."""
    plan_digest: str
    """Identifies the build: the source files, their sizes and the options."""

    @model_validator(mode="after")
    def _totals_add_up(self) -> Self:
        for field in ("num_samples", "num_bytes"):
            total = int(getattr(self.shards, field).sum())
            if total != getattr(self, field):
                raise ValueError(f"{field} is {getattr(self, field)}, but the shards add up to {total}")
        if self.shards.has_repeated_names:
            raise ValueError("two shards have the same name")
        return self

    def to_bytes(self) -> bytes:
        """The head as canonical JSON: equal manifests give equal bytes."""
        return _canonical({**self._content, "checksum": self.digest})

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of the head: the identity of the data set."""
        return digest_bytes(_canonical(self._content))

    @property
    def _content(self) -> dict[str, Any]:
        table = {"num_shards": len(self.shards), "shards_digest": self.shards.digest}
        return {**self.model_dump(mode="json", exclude={"shards"}), **table}

    @classmethod
    def from_bytes(cls, head: bytes, read_table: Callable[[], Readable], source: str) -> Self:
        """Parse and check a manifest; `source` is the address of its head, for messages.

        `read_table` is called when the head is found sound.

        Raises:
            DamagedManifestError: the head does not have its checksum, or the table is not the one that the head names.
            ManifestError: it has another schema version, an unknown or missing key, or wrong totals.
        """
        content = _checked(head, source)
        digest, num_shards = content.pop("shards_digest", None), content.pop("num_shards", None)
        table = read_table()
        if digest_bytes(table) != digest:
            raise DamagedManifestError(f"{TABLE_NAME} beside {source} {_DAMAGED}")
        if type(num_shards) is not int or num_shards < 1:
            raise ManifestError(f"manifest {source} is not valid: 'num_shards' is {num_shards!r}")
        try:
            return cls.model_validate({**content, "shards": ShardTable.from_bytes(table, num_shards, digest)})
        except RowsError as error:
            raise ManifestError(f"{TABLE_NAME} beside {source} {error}; build the shards again") from None
        except ValidationError as error:
            raise ManifestError(f"manifest {source} is not valid: {_first_fault(error)}") from None


_DAMAGED = "does not have its checksum: it is damaged; copy the data set again, or build the shards again"


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def _checked(head: bytes, source: str) -> dict[str, Any]:
    """The fields of a head, without its checksum."""
    try:
        content = json.loads(head)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DamagedManifestError(f"manifest {source} {_DAMAGED}")
    version, checksum = content.get("schema_version"), content.pop("checksum", None)
    if version == 1 and checksum is None:
        raise ManifestError(
            f"manifest {source} has format 1, which had no checksums per image; "
            "run 'shard-builder upgrade' with the URL of the data set, or build the shards again"
        )
    if checksum != digest_bytes(_canonical(content)):
        raise DamagedManifestError(f"manifest {source} {_DAMAGED}")
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"manifest {source} has schema version {version!r}, but this program reads {SCHEMA_VERSION}; "
            "build the shards again or use a matching release"
        )
    return content


def _first_fault(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    fault = first["msg"].removeprefix("Value error, ")
    return f"'{key}': {fault}" if key else fault
