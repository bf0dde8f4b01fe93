"""A build from start to end: plan, claim, write the missing shards, list the rejects, and the manifest last.

The destination is the journal of its build (`journal.py`). So the same command resumes a build that was killed
anywhere, and gives the same bytes. Several machines may build different shards of one plan.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import telemetry
from pipeline.console.progress import counted, progress
from pipeline.errors import UserError
from pipeline.format.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from pipeline.store.probe import overwrites
from tools.shard_builder.build.duplicates import find_duplicates
from tools.shard_builder.build.finish import by_suffix, finish, read_rejects
from tools.shard_builder.build.images import AS_THEY_ARE, ImagePolicy
from tools.shard_builder.build.journal import Claim, ClaimError, ShardResult, read_claim, read_done, take
from tools.shard_builder.build.plan import Plan, ShardPlan, make_plan
from tools.shard_builder.build.ray_runner import RayEngine
from tools.shard_builder.build.runners import Engine, open_local_engine, run_tasks
from tools.shard_builder.build.writer import ShardTask, WrittenShard, write_shard
from tools.shard_builder.readers import ReadOptions, open_reader
from tools.shard_builder.readers.annotations import read_lines


class ShardRangeError(UserError):
    """A shard range lies outside the plan."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build, from which source, and how."""

    dataset: str
    """One of `readers.DATASETS`."""
    source: Path
    split: str
    dest: str
    """URL of a store, for one split of one data set."""
    shard_bytes: int = 256_000_000
    """Target size of a tar, bytes."""
    shuffle_seed: int | None = 0
    """None keeps the order of the source, class after class."""
    num_workers: int | None = 1
    """Shards at once; None: one per core."""
    max_rejects: int = 0
    """More bad images than this are an error."""
    allow_subset: bool = False
    """Accept a data set with fewer classes or images than were published."""
    unlabelled: bool = False
    """Take images only: no labels, no classes, no class folders."""
    label_column: str | None = None
    """Column of a table that holds the labels; None: a column with a usual name."""
    nfc: bool = False
    """Write class names in Unicode's composed form (NFC)."""
    classes_of: str | None = None
    """Number the classes as in this list: URL of a data set, or path of a text file with one name per line."""
    images: ImagePolicy = AS_THEY_ARE
    deduplicate: bool = False
    """Of images with equal bytes, keep only the first by path."""
    keep_metadata: bool = False
    """Keep the path and the other facts of each image as `<key>.meta.json`."""
    engine: Literal["process", "ray"] = "process"
    ray_address: str | None = None
    """Address of a running cluster; None starts one on this machine."""
    shard_range: slice | None = None
    """Write only these shards of the plan, and no manifest."""


@dataclass(frozen=True)
class BuildReport:
    """The content of the destination, and what this run wrote. With a shard range: only what this run wrote."""

    url: str
    manifest_digest: str | None
    """None: only a shard range was written, so there is no manifest yet."""
    num_planned_shards: int
    """Shards of the plan; a shard whose images are all rejected is not written."""
    num_shards: int
    num_samples: int
    num_classes: int
    num_bytes: int
    num_rejects: int
    rejects: dict[str, int]
    """Rejected images, by the suffix of their names."""
    left_out: dict[str, int]
    """Number of source files that are no images, by suffix or kind."""
    notes: tuple[str, ...]
    """Sentences about choices that were made, and files that are left out."""
    was_complete: bool
    """The destination was already complete: there was nothing to do."""
    num_samples_written: int
    num_bytes_written: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the rates of this run, for JSON: null where nothing was written."""
        return asdict(self) | {
            "samples_per_s": self._rate(self.num_samples_written),
            "mb_per_s": self._rate(self.num_bytes_written / 1e6),
        }

    def _rate(self, amount: float) -> float | None:
        # Seconds are rounded to milliseconds, so a run that had nothing to do may have taken 0.
        return round(amount / self.seconds, 1) if amount and self.seconds else None


def build(options: BuildOptions) -> BuildReport:
    """Build the shards of one split: all, a range, or those that an interrupted build has not written.

    Raises:
        UserError: the source or the destination cannot be used.
        BuildError: shards are missing, or too many images were rejected.
    """
    started_s = time.monotonic()
    store = Store(options.dest)
    with _phase("plan"):
        plan = plan_build(options)
    for note in plan.notes:
        sys.stderr.write(f"note: {note}\n")
    wanted = _shards_of(plan, options.shard_range)
    if overwrites(store):
        sys.stderr.write(
            f"caution: {store.url} replaces objects that exist (it ignores If-None-Match), so it does not keep two "
            "builds apart: make sure that no build with other images or options runs there now\n"
        )
    claim = take(store, Claim.of(plan))
    if store.exists(MANIFEST_NAME):
        manifest = read_manifest(store)
        if manifest.plan_digest != plan.digest:
            raise ClaimError(f"{store.url} holds another data set, complete; choose another --dest")
        return _report(store, started_s, manifest, claim, notes=plan.notes, was_complete=True)
    done = read_done(store, claim)
    written = _write(store, plan, [shard for shard in wanted if shard.index not in done], options)
    if options.shard_range:
        return _report(store, started_s, None, claim, written, plan.notes)
    return _report(store, started_s, _finish(store, claim, options.max_rejects), claim, written, plan.notes)


def finalize(dest: str, max_rejects: int = 0) -> BuildReport:
    """Write the manifest of a build whose shards were written range by range. The source is not needed.

    Raises:
        UserError: shards are missing, too many images were rejected, or the destination cannot be used.
    """
    started_s = time.monotonic()
    store = Store(dest)
    claim = read_claim(store)
    was_complete = store.exists(MANIFEST_NAME)
    manifest = read_manifest(store) if was_complete else _finish(store, claim, max_rejects)
    return _report(store, started_s, manifest, claim, was_complete=was_complete)


def _shards_of(plan: Plan, shard_range: slice | None) -> Sequence[ShardPlan]:
    shards = plan.shards[shard_range or slice(None)]
    if shard_range and not shards:
        start, stop = shard_range.start or 0, "" if shard_range.stop is None else shard_range.stop
        raise ShardRangeError(
            f"--shard-range {start}:{stop} holds no shard: the plan has {len(plan.shards)}, numbers 0 to "
            f"{len(plan.shards) - 1}; write FIRST:LAST+1"
        )
    return shards


def _finish(store: Store, claim: Claim, max_rejects: int) -> Manifest:
    with _phase("finish"):
        return finish(store, claim, max_rejects)


def _report(
    store: Store,
    started_s: float,
    manifest: Manifest | None,
    claim: Claim,
    written: Sequence[ShardResult] = (),
    notes: tuple[str, ...] = (),
    was_complete: bool = False,
) -> BuildReport:
    fresh = [result.entry for result in written if result.entry]
    entries = manifest.shards if manifest else fresh
    rejects = read_rejects(store) if manifest else [reject for result in written for reject in result.rejects]
    return BuildReport(
        url=store.url,
        manifest_digest=manifest.digest if manifest else None,
        num_planned_shards=claim.num_shards,
        num_shards=len(entries),
        num_samples=sum(entry.num_samples for entry in entries),
        num_classes=len(claim.classes),
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_rejects=manifest.num_rejects if manifest else len(rejects),
        rejects=by_suffix(rejects),
        left_out=claim.left_out,
        notes=notes,
        was_complete=was_complete,
        num_samples_written=sum(entry.num_samples for entry in fresh),
        num_bytes_written=sum(entry.num_bytes for entry in fresh),
        seconds=round(time.monotonic() - started_s, 3),
    )


def plan_build(options: BuildOptions) -> Plan:
    """The plan of a build, without reading the destination.

    Raises:
        UserError: the source cannot be used.
    """
    class_list = read_class_list(options.classes_of) if options.classes_of is not None else None
    how = ReadOptions(options.unlabelled, options.label_column, options.nfc, class_list)
    reader = open_reader(options.dataset, options.source, options.split, allow_subset=options.allow_subset, options=how)
    return make_plan(
        counted(reader.seen(), "listing images", None, "images"),
        reader.classes,
        notes=reader.notes,
        dataset=options.dataset,
        split=options.split,
        shard_bytes=options.shard_bytes,
        shuffle_seed=options.shuffle_seed,
        images=options.images,
        deduplicate=options.deduplicate,
        keep_metadata=options.keep_metadata,
    )


def read_class_list(address: str) -> tuple[str, ...]:
    """The classes of the data set at a URL, or the lines of a text file.

    Raises:
        UserError: there is neither a data set nor a text file.
    """
    if Path(address).is_file():
        return tuple(read_lines(Path(address)))
    return read_manifest(Store(address)).classes


def _write(store: Store, plan: Plan, shards: Sequence[ShardPlan], options: BuildOptions) -> list[ShardResult]:
    telemetry.BUILD_PLANNED_SHARDS.set(len(shards))
    if not shards:
        return []
    results = []
    with contextlib.closing(_open_engine(options, len(shards))) as engine:
        duplicates = find_duplicates(store, plan, engine) if options.deduplicate else {}
        tasks = [
            ShardTask(
                shard,
                store,
                plan.digest,
                options.images,
                {record.key: duplicates[record.key] for record in shard.records if record.key in duplicates},
            )
            for shard in shards
        ]
        with progress("writing shards", sum(shard.num_bytes for shard in shards)) as advance:
            for written in run_tasks(engine, write_shard, tasks):
                results.append(written.result)
                _count(written)
                advance(plan.shards[written.result.index].num_bytes)
    return results


def _open_engine(options: BuildOptions, num_tasks: int) -> Engine:
    if options.engine == "ray":
        return RayEngine(options.num_workers, options.ray_address)
    return open_local_engine(options.num_workers or os.cpu_count() or 1, num_tasks)


def _count(written: WrittenShard) -> None:
    telemetry.BUILD_SHARDS.inc()
    telemetry.BUILD_REJECTS.inc(len(written.result.rejects))
    if entry := written.result.entry:
        telemetry.BUILD_SAMPLES.inc(entry.num_samples)
        telemetry.BUILD_BYTES.inc(entry.num_bytes)
    for phase, seconds in written.seconds.items():
        telemetry.BUILD_PHASE_SECONDS.labels(phase).inc(seconds)


@contextlib.contextmanager
def _phase(name: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    telemetry.BUILD_PHASE_SECONDS.labels(name).inc(time.monotonic() - started_s)
