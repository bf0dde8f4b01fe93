"""Check every byte of a finished data set against its manifest: the command `shard-builder verify`."""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from pipeline.console.command import (
    EXIT_DATA_AT_FAULT,
    EXIT_OK,
    Commands,
    add_command,
    add_json_flag,
    path,
    write_json,
)
from pipeline.console.progress import progress
from pipeline.errors import UserError
from pipeline.format.checksum import digest_file
from pipeline.format.manifest import Manifest
from pipeline.format.shard_table import ShardEntry
from pipeline.format.sidecars import data_set_sidecars, shard_sidecars
from pipeline.format.tar import TarSample, index_label, iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import MissingObjectError, Store, StoreError
from tools.shard_builder.build.images import ImagePolicy, RejectedImageError, prepare
from tools.shard_builder.build.indexes import read_index, sample_checksums
from tools.shard_builder.build.runners import open_local_engine, run_tasks
from tools.shard_builder.commands.arguments import add_url_argument, add_workers_flag
from tools.shard_builder.commands.samples import local_tar

_IN_FULL = ImagePolicy(decode_check=True)


class StateError(UserError):
    """The file of verified shards (`--state`) cannot be read or written."""


class Verification(NamedTuple):
    """The manifest, and one sentence per fault."""

    manifest: Manifest
    problems: tuple[str, ...]
    num_remembered: int
    """Shards that an earlier run found good and this run skipped."""


class _Task(NamedTuple):
    store: Store
    entry: ShardEntry
    num_classes: int
    decode: bool


class _Checked(NamedTuple):
    entry: ShardEntry
    problems: list[str]


def add_verify_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "verify", "check every byte of a finished data set", _verify)
    add_url_argument(command)
    command.add_argument("--decode", action="store_true", help="also decode every image in full")
    add_workers_flag(command)
    command.add_argument(
        "--state", type=path, metavar="FILE", help="note good shards in this file, and skip them the next time"
    )
    add_json_flag(command)


def _verify(args: argparse.Namespace) -> int:
    num_workers = args.num_workers or os.cpu_count() or 1
    manifest, problems, num_remembered = verify(Store(args.url), args.decode, num_workers, args.state)
    status = EXIT_DATA_AT_FAULT if problems else EXIT_OK
    if args.json:
        write_json(
            {
                "url": args.url,
                "is_ok": not problems,
                "problems": problems,
                "num_shards": len(manifest.shards),
                "num_shards_verified_before": num_remembered,
                "num_samples": manifest.num_samples,
                "num_bytes": manifest.num_bytes,
            }
        )
        return status
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    remembered = f"; {num_remembered} of the shards were verified before" if num_remembered else ""
    if problems:
        sys.stdout.write(f"not ok: {len(problems)} problems{remembered}\n")
    else:
        num_shards, num_samples, num_bytes = len(manifest.shards), manifest.num_samples, manifest.num_bytes
        sys.stdout.write(f"ok: {num_shards} shards, {num_samples} samples, {num_bytes} bytes{remembered}\n")
    return status


def verify(store: Store, decode: bool = False, num_workers: int = 1, state: Path | None = None) -> Verification:
    """Check every shard: size, digest, index, each index row against the tar, and with `decode` each image.

    Shards of a remote store are downloaded to the temporary folder (`TMPDIR`), one per worker. With `state`, good
    shards are noted in that file, and the next run skips a shard that is noted with the same digests.

    Raises:
        UserError: the manifest is missing or not valid, the store cannot be read, or `state` cannot be used.
    """
    manifest = read_manifest(store)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(_Memory(state, store, decode)) if state else None
        fresh = [entry for entry in manifest.shards if not (memory and memory.knows(entry))]
        engine = stack.enter_context(contextlib.closing(open_local_engine(num_workers, len(fresh))))
        advance = stack.enter_context(progress("verifying shards", sum(entry.num_bytes for entry in fresh)))
        found: dict[str, list[str]] = {}
        tasks = [_Task(store, entry, len(manifest.classes), decode) for entry in fresh]
        for entry, problems in run_tasks(engine, _check_shard, tasks):
            found[entry.name] = problems
            if memory and not problems:
                memory.add(entry)
            advance(entry.num_bytes)
    ordered = itertools.chain.from_iterable(found[entry.name] for entry in fresh)
    described = _check_descriptions(store, manifest)
    return Verification(manifest, (*ordered, *described), len(manifest.shards) - len(fresh))


def _check_descriptions(store: Store, manifest: Manifest) -> Iterator[str]:
    for name, content in data_set_sidecars(manifest).items():
        try:
            if store.read(name) != content:
                yield f"{name}: does not describe the data set"
        except MissingObjectError as error:
            yield f"{name}: {error}"


class _Memory:
    """The good shards, one line of JSON per shard. A cut line, left by a killed run, is ignored."""

    def __init__(self, path: Path, store: Store, decode: bool) -> None:
        self._path, self._decode = path, decode
        self._url = str(store.local_path("") or store.url)
        self._lines: set[str] = set()

    def __enter__(self) -> "_Memory":
        try:
            self._file: IO[str] = self._path.open("a+")
            self._file.seek(0)
            content = self._file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"cannot use --state {self._path}: {error}") from None
        self._lines = set(content.splitlines())
        if content and not content.endswith("\n"):
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def knows(self, entry: ShardEntry) -> bool:
        """Whether the shard was verified at this URL with these digests, and decoded if `decode` is set."""
        return any(self._line(entry, decoded) in self._lines for decoded in {True, self._decode})

    def add(self, entry: ShardEntry) -> None:
        """Note a good shard. The line is flushed at once, so it survives a kill of this process."""
        self._file.write(self._line(entry, self._decode) + "\n")
        self._file.flush()

    def _line(self, entry: ShardEntry, decoded: bool) -> str:
        return json.dumps(
            {
                "url": self._url,
                "shard": entry.name,
                "digest": entry.digest,
                "index_digest": entry.index_digest,
                "decoded": decoded,
            }
        )


def _check_shard(task: _Task) -> _Checked:
    store, entry = task.store, task.entry
    try:
        if (size := store.size(entry.tar_name)) != entry.num_bytes:
            return _Checked(entry, [f"{entry.tar_name}: {size} bytes, the manifest records {entry.num_bytes}"])
        with local_tar(store, entry) as tar:
            if digest_file(tar) != entry.digest:
                problem = f"{entry.tar_name}: its content does not have the digest that the manifest records"
                return _Checked(entry, [problem])
            return _Checked(entry, _check_rows(task, tar))
    except UserError as error:
        if isinstance(error, StoreError) and not isinstance(error, MissingObjectError):
            raise  # says nothing of the data
        return _Checked(entry, [f"{entry.name}: {error}"])


def _check_rows(task: _Task, tar: Path) -> list[str]:
    """Compare the rows of the index with the members of the tar; one sentence per wrong sample."""
    problems: list[str] = []
    entry = task.entry
    index = read_index(task.store, entry)
    for row, sample in itertools.zip_longest(index, iter_samples(tar)):
        if row is None or sample is None:
            return [*problems, f"{entry.tar_name}: does not hold the {entry.num_samples} samples of its index"]
        if (row["offset"], row["size"], row["label"]) != (sample.offset, len(sample.image), index_label(sample.label)):
            problems.append(f"{entry.tar_name}: sample {sample.key} is not where or what the index says")
        elif (sample.label is None) != (task.num_classes == 0):
            has, is_ = ("no label", "labelled") if sample.label is None else ("a label", "unlabelled")
            problems.append(f"{entry.tar_name}: sample {sample.key} has {has}; by the manifest the data set is {is_}")
        elif not all(0 <= label < task.num_classes for label in sample.labels):
            problems.append(f"{entry.tar_name}: sample {sample.key} has label {sample.label}, which is no class")
        elif task.decode and (fault := _fault_of_image(sample, row)):
            problems.append(f"{entry.tar_name}: sample {sample.key}: {fault}")
    if problems:
        return problems
    for column, found in zip(("checksum", "head_checksum"), sample_checksums(index, tar), strict=True):
        wrong = np.flatnonzero(index[column] != found)
        problems += [f"{entry.tar_name}: sample {i} does not have the {column} of its index" for i in wrong]
    for name, content in shard_sidecars(entry, tar, index).items():
        if task.store.read(name) != content:
            problems.append(f"{name}: is not the index of {entry.tar_name}")
    return problems


def _fault_of_image(sample: TarSample, row: Any) -> str | None:
    try:
        image = prepare(sample.image, _IN_FULL)
    except RejectedImageError as error:
        return str(error)
    if image.ext != sample.ext:
        return f"its suffix is .{sample.ext}, but its content is .{image.ext}"
    if (image.height, image.width, image.orientation) != (row["height"], row["width"], row["orientation"]):
        return "has not the size or orientation that the index says"
    return None
