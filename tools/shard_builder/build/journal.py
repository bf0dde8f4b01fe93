"""The destination is the journal of its build: a claim, one done marker per shard, and no object is overwritten.

The claim (`_build/plan.json`) says which plan owns the destination. A done marker commits a shard, the manifest commits
the data set. Both name the plan, so the leftovers of two plans at one destination are never mixed. The objects of a
shard are created only if absent; an existing object must have the same bytes.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import digest_file
from pipeline.format.shard_table import ShardEntry
from pipeline.format.sidecars import dali_name, energon_name
from pipeline.store import Store
from tools.shard_builder.build.plan import Plan

_CLAIM_NAME = "_build/plan.json"
_DONE_FOLDER = "_build/done/"
_NUM_THREADS = 16  # small objects: threads mostly wait


class ClaimError(UserError):
    """The destination belongs to another build, or to no build."""


class PublishError(UserError):
    """The destination has an object with the same name and other bytes."""


class Claim(Config):
    """What is built at a destination; enough to write the manifest without the source."""

    dataset: str
    split: str
    options: dict[str, Any]
    num_images: int
    num_shards: int
    classes: tuple[str, ...]
    plan_digest: str
    left_out: dict[str, int] = Field(default_factory=dict)
    """See `Plan`. Not in the digest: a new file that is no image does not change the build."""

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
        """The first difference from another claim, as a clause for a message."""
        for name in sorted(self.options.keys() | other.options.keys()):
            if self.options.get(name) != other.options.get(name):
                return f"{name} was {other.options.get(name)}, now {self.options.get(name)}"
        for name in ("dataset", "split", "num_images", "num_shards"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} was {getattr(other, name)}, now {getattr(self, name)}"
        return "the images have other names, sizes or labels than they had"


class Reject(Config):
    """An image of the source that is in no shard, and the reason. All texts are valid UTF-8."""

    key: str
    path: str
    """Relative to the source."""
    reason: str
    by_choice: bool = False
    """An option left it out; it does not count against `--max-rejects`."""


class ShardResult(Config):
    """The content of a done marker."""

    plan_digest: str
    index: int
    """Position of the shard in the plan."""
    entry: ShardEntry | None
    """None if every image of the shard was rejected: then no shard is written."""
    rejects: tuple[Reject, ...]

    @property
    def object_names(self) -> tuple[str, ...]:
        """The objects of this shard at the destination."""
        if self.entry is None:
            return ()
        return (self.entry.tar_name, self.entry.index_name, dali_name(self.entry), energon_name(self.entry))


def take(store: Store, claim: Claim) -> Claim:
    """Claim the destination. Returns the valid claim: ours, or an earlier one of the same plan.

    Raises:
        ClaimError: another plan has claimed the destination; the message says what differs.
    """
    if store.put_new(_CLAIM_NAME, claim.model_dump_json(indent=1).encode() + b"\n"):
        return claim
    other = read_claim(store)
    if other.plan_digest != claim.plan_digest:
        raise ClaimError(
            f"{store.url} holds another build ({claim.difference(other)}); "
            "choose another --dest, empty this one first, or build with the earlier options and images"
        )
    return other


def read_claim(store: Store) -> Claim:
    """The claim of a destination.

    Raises:
        ClaimError: there is no claim, or another release wrote it.
    """
    if not store.exists(_CLAIM_NAME):
        raise ClaimError(f"{store.url} holds no {_CLAIM_NAME}: no build was begun there, or it was emptied")
    try:
        return Claim.model_validate_json(store.read(_CLAIM_NAME))
    except ValidationError:
        raise ClaimError(
            f"{store.url}/{_CLAIM_NAME} is damaged, or another release of shard-builder wrote it; "
            "empty the destination first"
        ) from None


def check_claim(store: Store, plan_digest: str) -> None:
    """Check that the destination still belongs to this plan: another build may have emptied and claimed it.

    Raises:
        ClaimError: the destination belongs to another build now.
    """
    if read_claim(store).plan_digest != plan_digest:
        raise ClaimError(f"{store.url} was taken by another build while this one ran; choose another --dest")


def publish(store: Store, name: str, source: bytes | Path, digest: str) -> None:
    """Create an object. If a killed or concurrent build has already created it, compare the bytes.

    Raises:
        PublishError: the existing object has other bytes.
    """
    if store.put_new(name, source):
        return
    with tempfile.NamedTemporaryFile(prefix="shard-builder-") as existing:
        store.download(name, existing.name)
        if digest_file(existing.name) != digest:
            raise PublishError(
                f"{store.url}/{name} exists with other content: the source has changed since that build started; "
                "choose an empty destination"
            )


def done_name(index: int) -> str:
    """The name of the done marker of a shard."""
    return f"{_DONE_FOLDER}{index:06d}.json"


def mark_done(store: Store, result: ShardResult) -> None:
    """Commit a shard. All its objects must exist."""
    store.put(done_name(result.index), result.model_dump_json().encode())


def read_done(store: Store, claim: Claim) -> dict[int, ShardResult]:
    """The committed shards whose objects all exist, by their position in the plan."""
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
        return None  # written by something else: treated as missing
