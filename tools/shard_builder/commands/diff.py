"""Compare two data sets by manifest and by samples: the command `shard-builder diff`.

Shards with the same hash in both manifests are equal and are not read. `diff` trusts the manifests; `verify` checks
them.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.console.command import (
    EXIT_DATA_AT_FAULT,
    EXIT_OK,
    Commands,
    add_command,
    add_json_flag,
    not_empty,
    not_negative,
    write_json,
)
from pipeline.console.lines import write_line
from pipeline.console.progress import progress
from pipeline.format.checksum import digest_bytes
from pipeline.format.manifest import Manifest
from pipeline.format.shard_table import ShardEntry
from pipeline.format.tar import TarSample, iter_samples
from pipeline.prefetch import prefetch
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.commands.samples import label_names, local_tar

_NUM_THREADS = 4  # hashing releases the interpreter lock; each thread needs disk space for one shard
_OF_SAMPLES = {
    "shards",
    "num_samples",
    "num_bytes",
    "image_height",
    "image_width",
    "image_bytes",
}  # follow from the samples


class _Content(NamedTuple):
    """What two samples with the same key are compared by."""

    labels: tuple[str, ...]
    """Names of the classes: the same number may mean another class in the other data set."""
    ext: str
    digest: bytes
    """Half of the BLAKE3 of the image."""


def add_diff_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "diff", "compare two data sets, sample by sample", _diff)
    command.add_argument("a", type=not_empty, metavar="A", help="URL of a data set")
    command.add_argument("b", type=not_empty, metavar="B", help="URL of the other")
    command.add_argument(
        "--limit", type=not_negative, default=20, metavar="N", help="print at most this many differences"
    )
    add_json_flag(command)


def _diff(args: argparse.Namespace) -> int:
    found = diff(Store(args.a), Store(args.b))
    first = list(itertools.islice(found, args.limit))
    if not args.json:
        for line in first:  # before counting the rest, which may take long
            write_line(line)
    num_more = sum(1 for _ in found)
    num_differences = len(first) + num_more
    if args.json:
        write_json({"a": args.a, "b": args.b, "num_differences": num_differences, "differences": first})
    elif num_more:
        sys.stdout.write(f"and {num_more:,} more\n")
    elif not num_differences:
        sys.stdout.write("no difference\n")
    return EXIT_DATA_AT_FAULT if num_differences else EXIT_OK


def diff(a: Store, b: Store) -> Iterator[str]:
    """Yield one line per difference; none if the data sets are equal.

    Reads only the shards that the other data set lacks, and keeps about 300 bytes per sample of those in A.

    Raises:
        UserError: a manifest or a shard cannot be read.
    """
    ours, theirs = read_manifest(a), read_manifest(b)
    yield from _diff_manifests(ours, theirs)
    # If the classes differ, the same number may mean another class: equal shards may hold different samples.
    shared = _digests(ours) & _digests(theirs) if ours.classes == theirs.classes else set()
    unmatched = dict(_contents(a, ours, shared, "reading A"))
    for key, content in _contents(b, theirs, shared, "reading B"):
        mine = unmatched.pop(key, None)
        if mine is None:
            yield f"sample {key}: only in B"
        elif mine != content:
            yield f"sample {key}: {_difference(mine, content)}"
    yield from (f"sample {key}: only in A" for key in unmatched)


def _diff_manifests(ours: Manifest, theirs: Manifest) -> Iterator[str]:
    for field in Manifest.model_fields:
        mine, other = getattr(ours, field), getattr(theirs, field)
        if mine != other and field not in _OF_SAMPLES and field != "classes":
            yield f"{field}: {mine} in A, {other} in B"
    if ours.classes != theirs.classes:
        pairs = itertools.zip_longest(ours.classes, theirs.classes)
        number, (mine, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        yield f"classes: {len(ours.classes)} in A, {len(theirs.classes)} in B; number {number} is {mine}, {other}"
    if ours.shards != theirs.shards:
        num_shared = len(_digests(ours) & _digests(theirs))
        yield f"shards: {len(ours.shards)} in A, {len(theirs.shards)} in B, of which {num_shared} are in both"


def _digests(manifest: Manifest) -> set[str]:
    return {entry.digest for entry in manifest.shards}


def _contents(store: Store, manifest: Manifest, known: set[str], title: str) -> Iterator[tuple[str, _Content]]:
    """Key and content of every sample, shard by shard, without the shards whose digest is in `known`."""
    entries = [entry for entry in manifest.shards if entry.digest not in known]

    def read(entry: ShardEntry) -> list[tuple[str, _Content]]:
        with local_tar(store, entry) as tar:
            return [(sample.key, _content(sample, manifest.classes)) for sample in iter_samples(tar)]

    shards = prefetch(read, entries, _NUM_THREADS, _NUM_THREADS, "diff")
    with progress(title, sum(entry.num_bytes for entry in entries)) as advance:
        for entry, samples in zip(entries, shards, strict=True):
            yield from samples
            advance(entry.num_bytes)


def _content(sample: TarSample, classes: Sequence[str]) -> _Content:
    return _Content(label_names(sample, classes), sample.ext, bytes.fromhex(digest_bytes(sample.image))[:16])


def _difference(mine: _Content, other: _Content) -> str:
    if mine.labels != other.labels:
        return f"is {', '.join(mine.labels) or 'of no class'} in A, {', '.join(other.labels) or 'of no class'} in B"
    return "has different image bytes"
