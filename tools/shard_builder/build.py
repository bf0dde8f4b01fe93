"""A build from start to end: plan, claim, write what is missing, account for rejects, and the manifest last.

The destination is its own journal. `_build/plan.json` says whose it is, a done marker commits a shard, and the
manifest commits the whole; so a build that was killed anywhere goes on when the same command is run again, and
ends with the same bytes.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.format.manifest import MANIFEST_NAME, Manifest
from pipeline.store import Store, read_manifest
from tools.shard_builder.indexes import image_spreads, read_indexes
from tools.shard_builder.plan import Plan, make_plan
from tools.shard_builder.progress import progress
from tools.shard_builder.readers import open_reader
from tools.shard_builder.runners import run_in_processes
from tools.shard_builder.writer import ShardResult, ShardTask, done_name, publish, write_shard

CLAIM_NAME = "_build/plan.json"
REJECTS_NAME = "rejects.jsonl"
_NUM_THREADS = 16


class BuildError(UserError):
    """A build cannot go on: the destination is taken, or too many images were rejected."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build, from what, and how."""

    dataset: str
    """One of `readers.READERS`."""
    source: Path
    split: str
    dest: str
    """URL of a store; one data set and split each."""
    shard_bytes: int = 256_000_000
    """Size of a tar to aim at."""
    shuffle_seed: int | None = 0
    """None keeps the order of the source, class after class."""
    num_workers: int = 1
    max_rejects: int = 0
    """More rejected images than this are an error."""


@dataclass(frozen=True)
class BuildReport:
    """What the destination holds, and how much of it this run wrote."""

    url: str
    manifest_digest: str
    num_shards: int
    num_samples: int
    num_classes: int
    num_bytes: int
    num_rejects: int
    was_complete: bool
    """The destination was complete before: there was nothing to do."""
    num_samples_written: int
    num_bytes_written: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All fields and the rates of this run, for JSON."""
        return asdict(self) | {
            "samples_per_s": round(self.num_samples_written / self.seconds, 1),
            "mb_per_s": round(self.num_bytes_written / 1e6 / self.seconds, 1),
        }


def build(options: BuildOptions) -> BuildReport:
    """Build the shards of one split, or finish a build that was interrupted.

    Raises:
        UserError: the source or the destination cannot be used, or a `BuildError` says why it is refused.
    """
    started_s = time.monotonic()
    store = Store(options.dest)
    reader = open_reader(options.dataset, options.source, options.split)
    plan = make_plan(
        reader.records(),
        reader.classes,
        dataset=options.dataset,
        split=options.split,
        shard_bytes=options.shard_bytes,
        shuffle_seed=options.shuffle_seed,
    )
    _claim(store, plan)
    was_complete = store.exists(MANIFEST_NAME)
    written: dict[int, ShardResult] = {}
    if was_complete:
        manifest = read_manifest(store)
    else:
        done = _read_done(store, plan)
        missing = [ShardTask(shard, reader, store) for shard in plan.shards if shard.index not in done]
        written = _write(missing, options.num_workers)
        results = [result for _, result in sorted((done | written).items())]
        manifest = _finish(store, plan, results, options.max_rejects)
    entries = [result.entry for result in written.values() if result.entry]
    return BuildReport(
        url=store.url,
        manifest_digest=manifest.digest,
        num_shards=len(manifest.shards),
        num_samples=manifest.num_samples,
        num_classes=len(manifest.classes),
        num_bytes=manifest.num_bytes,
        num_rejects=manifest.num_rejects,
        was_complete=was_complete,
        num_samples_written=sum(entry.num_samples for entry in entries),
        num_bytes_written=sum(entry.num_bytes for entry in entries),
        seconds=round(time.monotonic() - started_s, 3),
    )


def _claim(store: Store, plan: Plan) -> None:
    """Take the destination for this plan; one that belongs to another plan is refused."""
    claim = {
        "dataset": plan.dataset,
        "split": plan.split,
        "num_shards": len(plan.shards),
        "plan_digest": plan.digest,
    }
    content = json.dumps(claim, indent=1).encode() + b"\n"
    if not store.put_new(CLAIM_NAME, content) and store.read(CLAIM_NAME) != content:
        raise BuildError(
            f"{store.url} holds another build (of other images, or with other options); "
            "choose another --dest, or empty this one first"
        )


def _read_done(store: Store, plan: Plan) -> dict[int, ShardResult]:
    """The shards that an earlier run has committed, by position in the plan."""
    present = set(store.list())
    names = [name for shard in plan.shards if (name := done_name(shard)) in present]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        markers = [_parse_marker(content) for content in pool.map(store.read, names)]
    return {
        marker.index: marker
        for marker in markers
        if marker and (marker.entry is None or {marker.entry.tar_name, marker.entry.index_name} <= present)
    }


def _parse_marker(content: bytes) -> ShardResult | None:
    try:
        return ShardResult.model_validate_json(content)
    except ValidationError:
        return None  # not ours: as good as missing


def _write(tasks: Sequence[ShardTask], num_workers: int) -> dict[int, ShardResult]:
    results = {}
    with progress("writing shards", sum(task.shard.num_bytes for task in tasks)) as advance:
        for result in run_in_processes(write_shard, tasks, num_workers):
            results[result.index] = result
            advance(result.entry.num_bytes if result.entry else 0)
    return results


def _finish(store: Store, plan: Plan, results: Sequence[ShardResult], max_rejects: int) -> Manifest:
    """Publish the list of rejects and, where there are not too many, the manifest."""
    rejects = [reject for result in results for reject in result.rejects]
    store.put(REJECTS_NAME, "".join(f"{reject.model_dump_json()}\n" for reject in rejects).encode())
    if len(rejects) > max_rejects:
        raise BuildError(
            f"{len(rejects)} images were rejected, more than --max-rejects {max_rejects}: first "
            f"{rejects[0].path} ({rejects[0].reason}), all in {store.url}/{REJECTS_NAME}; repair or remove them "
            "and build into an empty destination, or raise --max-rejects and run this command again"
        )
    entries = tuple(result.entry for result in results if result.entry)
    if not entries:
        raise BuildError(f"every image was rejected; the reasons are in {store.url}/{REJECTS_NAME}")
    manifest = Manifest(
        dataset=plan.dataset,
        split=plan.split,
        classes=plan.classes,
        shards=entries,
        num_samples=sum(entry.num_samples for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_rejects=len(rejects),
        plan_digest=plan.digest,
        **image_spreads(list(read_indexes(store, entries))),
    )
    publish(store, MANIFEST_NAME, manifest.to_bytes(), manifest.digest)
    return manifest
