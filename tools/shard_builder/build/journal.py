"""The destination as the journal of its build: a claim, a done marker a shard, and nothing that is overwritten.

The claim (`_build/plan.json`) says whose the destination is. A shard is committed by its marker, the data set by its
manifest; both name the plan, so that what two generations of a build leave at one place is never taken for one. All
objects of a shard are created only if absent: where one exists, it has to be the same, byte for byte.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_file
from pipeline.format.manifest import ShardEntry
from pipeline.format.sidecars import dali_name, energon_name
from pipeline.store import Store
from tools.shard_builder.build.plan import Plan

_CLAIM_NAME = "_build/plan.json"
_DONE_FOLDER = "_build/done/"
_NUM_THREADS = 16  # small objects: the time goes into waiting


class ClaimError(UserError):
    """The destination belongs to another build, or to none."""


class PublishError(UserError):
    """The destination holds other bytes under a name that this build has to write."""


class Claim(Config):
    """What is being built at a destination; enough to finish it without the source."""

    dataset: str
    split: str
    options: dict[str, Any]
    num_images: int
    num_shards: int
    classes: tuple[str, ...]
    plan_digest: str
    left_out: dict[str, int] = Field(default_factory=dict)
    """See `Plan`. No part of the digest: a new file that is no image does not make another build."""

    @classmethod
    def of(cls, plan: Plan) -> "Claim":
        """The claim of a plan."""
        return cls(
            dataset=plan.dataset,
            split=plan.split,
            options=plan.options,
            num_images=plan.num_images,
            num_shards=len(plan.shards),
            classes=plan.classes,
            plan_digest=plan.digest,
            left_out=plan.left_out,
        )

    def difference(self, other: "Claim") -> str:
        """What a build would have to change to be the other one."""
        for name in sorted(self.options.keys() | other.options.keys()):
            if self.options.get(name) != other.options.get(name):
                return f"{name} was {other.options.get(name)}, now {self.options.get(name)}"
        for name in ("dataset", "split", "num_images", "num_shards"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} was {getattr(other, name)}, now {getattr(self, name)}"
        return "the images have other names, sizes or labels than they had"


class Reject(Config):
    """An image that is in the source but in no shard, and why. Its texts can be written as UTF-8."""

    key: str
    path: str
    """Relative to the source."""
    reason: str
    by_choice: bool = False
    """Left out because an option says so; does not count against the limit."""


class ShardResult(Config):
    """The content of a done marker."""

    plan_digest: str
    index: int
    """Of the shard in the plan."""
    entry: ShardEntry | None
    """None where every image of the shard was rejected: then there is no shard."""
    rejects: tuple[Reject, ...]

    @property
    def object_names(self) -> tuple[str, ...]:
        """All that lies at the destination because of this shard."""
        if self.entry is None:
            return ()
        return (self.entry.tar_name, self.entry.index_name, dali_name(self.entry), energon_name(self.entry))


def take(store: Store, claim: Claim) -> Claim:
    """Claim the destination; returns the claim that holds now: ours, or that of an earlier build of the same plan.

    Raises:
        ClaimError: it is claimed by another plan; the message says what differs.
    """
    if store.put_new(_CLAIM_NAME, claim.model_dump_json(indent=1).encode() + b"\n"):
        return claim
    other = read_claim(store)
    if other.plan_digest != claim.plan_digest:
        raise ClaimError(
            f"{store.url} holds another build ({claim.difference(other)}); "
            "choose another --dest, empty this one first, or go back to what it was"
        )
    return other


def read_claim(store: Store) -> Claim:
    """The claim of a destination.

    Raises:
        ClaimError: there is none, or it is of another release.
    """
    if not store.exists(_CLAIM_NAME):
        raise ClaimError(f"{store.url} holds no {_CLAIM_NAME}: no build was begun there, or it was emptied")
    try:
        return Claim.model_validate_json(store.read(_CLAIM_NAME))
    except ValidationError:
        raise ClaimError(
            f"{store.url}/{_CLAIM_NAME} is garbled or of another release of shard-builder; empty the destination first"
        ) from None


def check_claim(store: Store, plan_digest: str) -> None:
    """Before writing: the destination may have been emptied, and claimed by another, since this build began.

    Raises:
        ClaimError: it is not ours any more.
    """
    if read_claim(store).plan_digest != plan_digest:
        raise ClaimError(f"{store.url} was taken by another build while this one ran; choose another --dest")


def publish(store: Store, name: str, source: bytes | Path, sha256: str) -> None:
    """Create an object; where a killed or a concurrent build has made it before, check that it is the same.

    Raises:
        PublishError: it is not.
    """
    if store.put_new(name, source):
        return
    with tempfile.NamedTemporaryFile(prefix="shard-builder-") as existing:
        store.download(name, existing.name)
        if sha256_file(existing.name) != sha256:
            raise PublishError(
                f"{store.url}/{name} exists with other content: the source has changed since that build began; "
                "choose an empty destination"
            )


def done_name(index: int) -> str:
    """Where the done marker of a shard lies."""
    return f"{_DONE_FOLDER}{index:06d}.json"


def mark_done(store: Store, result: ShardResult) -> None:
    """Commit a shard, of which all objects are there."""
    store.put(done_name(result.index), result.model_dump_json().encode())


def read_done(store: Store, claim: Claim) -> dict[int, ShardResult]:
    """The shards that have been committed and are whole, by their position in the plan."""
    present = set(store.list())
    names = [name for index in range(claim.num_shards) if (name := done_name(index)) in present]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        markers = [_parse_marker(content) for content in pool.map(store.read, names)]
    return {
        marker.index: marker
        for marker in markers
        if marker and marker.plan_digest == claim.plan_digest and present.issuperset(marker.object_names)
    }


def _parse_marker(content: bytes) -> ShardResult | None:
    try:
        return ShardResult.model_validate_json(content)
    except ValidationError:
        return None  # not ours: as good as missing
