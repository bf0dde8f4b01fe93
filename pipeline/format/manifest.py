"""The manifest: the only file that links the shard builder and the trainer.

It names every shard with its size and hash. It is written last: a destination without a manifest is unfinished. It
holds no time, host or path, so the same input gives the same bytes. Its own hash identifies the data set.
"""

import json
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes
from pipeline.format.names import FileName

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION: Literal[1] = 1


class ManifestError(UserError):
    """The manifest is garbled, has another version, or contradicts itself. The message names its source."""


class ShardEntry(Config):
    """One shard: a tar file and its index."""

    name: FileName
    """For example "train-000000"; file names are this name and a suffix."""
    num_bytes: PositiveInt
    """Size of the tar file."""
    num_samples: PositiveInt
    sha256: str
    """Hash of the tar file, in hex."""
    index_sha256: str

    @property
    def tar_name(self) -> str:
        return f"{self.name}.tar"

    @property
    def index_name(self) -> str:
        return f"{self.name}.index.npy"


class Spread(Config):
    """Smallest value, median (lower of the middle two) and largest value of a quantity over all samples."""

    min: int
    median: int
    max: int


class Manifest(Config):
    """The content of `manifest.json`; labels are positions in `classes`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    dataset: str
    split: str
    classes: tuple[str, ...]
    """Empty where the data set is unlabelled."""
    shards: tuple[ShardEntry, ...]
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
            total = sum(getattr(shard, field) for shard in self.shards)
            if total != getattr(self, field):
                raise ValueError(f"{field} is {getattr(self, field)}, but the shards add up to {total}")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards have the same name")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal manifests give equal bytes."""
        content = self.model_dump(mode="json")
        if not self.left_out:  # older manifests lack this field, and the digest of a data set must never change
            del content["left_out"]
        return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`: the identity of the data set."""
        return sha256_bytes(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Self:
        """Parse and check a manifest; `source` is its address, for messages.

        Raises:
            ManifestError: it is not JSON, or has another schema version, an unknown or missing key, or wrong totals.
        """
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise ManifestError(f"manifest {source} is not JSON; build the shards again") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise ManifestError(
                f"manifest {source} has schema version {version!r}, but this program reads {SCHEMA_VERSION}; "
                "build the shards again or use a matching release"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ManifestError(f"manifest {source} is not valid: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    fault = first["msg"].removeprefix("Value error, ")
    return f"'{key}': {fault}" if key else fault
