"""The end of a build: the list of rejects, the files for other readers, and the manifest, which commits the build."""

from collections import Counter
from collections.abc import Iterable

from pipeline.errors import UserError
from pipeline.format.checksum import digest_bytes
from pipeline.format.manifest import MANIFEST_NAME, Manifest
from pipeline.format.shard_table import TABLE_NAME, ShardTable
from pipeline.format.sidecars import data_set_sidecars
from pipeline.store import Store
from tools.shard_builder.build.indexes import image_spreads, read_indexes
from tools.shard_builder.build.journal import Claim, Reject, check_claim, publish, read_done
from tools.shard_builder.readers.file_kinds import suffix_of
from tools.shard_builder.readers.wording import tally

REJECTS_NAME = "rejects.jsonl"


class BuildError(UserError):
    """A build cannot be finished: shards are missing, or too many images were rejected."""


def by_suffix(rejects: Iterable[Reject]) -> dict[str, int]:
    """How many rejected images have each suffix."""
    return dict(sorted(Counter(suffix_of(reject.path) for reject in rejects).items()))


def read_rejects(store: Store) -> list[Reject]:
    """The rejects of a finished data set; none if `rejects.jsonl` was deleted.

    Raises:
        StoreError: the list cannot be read.
    """
    if not store.exists(REJECTS_NAME):
        return []
    return [Reject.model_validate_json(line) for line in store.read(REJECTS_NAME).splitlines()]


def finish(store: Store, claim: Claim, max_rejects: int) -> Manifest:
    """Publish the list of rejects, then the sidecars and the manifest.

    Reads the done markers at the destination, because other processes may have written some of the shards.

    Raises:
        BuildError: shards are missing, or there are more bad images than `max_rejects`.
        ClaimError: the destination now belongs to another build.
    """
    done = read_done(store, claim)
    if missing := sorted(set(range(claim.num_shards)) - done.keys()):
        raise BuildError(
            f"{len(missing)} of {claim.num_shards} shards are missing in {store.url}, the first is number "
            f"{missing[0]}; build them with 'shard-builder build --shard-range {missing[0]}:{missing[-1] + 1}'"
        )
    results = [result for _, result in sorted(done.items())]
    rejects = [reject for result in results for reject in result.rejects]
    store.put(REJECTS_NAME, "".join(f"{reject.model_dump_json()}\n" for reject in rejects).encode())
    bad = [reject for reject in rejects if not reject.by_choice]
    if len(bad) > max_rejects:
        raise BuildError(
            f"{len(bad)} images were rejected, more than --max-rejects {max_rejects}: the first is "
            f"{bad[0].path} ({bad[0].reason}), all ({tally(by_suffix(bad))}) are in {store.url}/{REJECTS_NAME}; "
            "repair or remove them and build into an empty destination, "
            "or raise --max-rejects and run this command again"
        )
    entries = tuple(result.entry for result in results if result.entry)
    if not entries:
        raise BuildError(f"every image was rejected; the reasons are in {store.url}/{REJECTS_NAME}")
    manifest = Manifest(
        dataset=claim.dataset,
        split=claim.split,
        classes=claim.classes,
        shards=ShardTable.of(entries),
        num_samples=sum(entry.num_samples for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_rejects=len(rejects),
        left_out=claim.left_out,
        plan_digest=claim.plan_digest,
        **image_spreads(list(read_indexes(store, entries))),
    )
    for name, content in data_set_sidecars(manifest).items():
        publish(store, name, content, digest_bytes(content))
    check_claim(store, claim.plan_digest)
    publish(store, TABLE_NAME, manifest.shards.to_bytes(), manifest.shards.digest)
    head = manifest.to_bytes()
    publish(store, MANIFEST_NAME, head, digest_bytes(head))
    return manifest
