"""Copy a finished data set from one store to another: the command `shard-builder copy`.

A copy is a build whose shards come from another store. It claims its destination, compares the digests of every shard
with the manifest, commits the shard with a done marker, and writes the manifest last. So a killed copy resumes, and
a destination of another build is refused.
"""

import argparse
import contextlib
import os
import sys
from typing import NamedTuple

from pipeline.console.command import Commands, add_command, add_json_flag, not_empty, write_json
from pipeline.console.progress import progress
from pipeline.errors import UserError
from pipeline.format.checksum import digest_bytes, digest_file
from pipeline.format.index import index_to_bytes
from pipeline.format.manifest import Manifest
from pipeline.format.sidecars import shard_sidecars
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.finish import finish
from tools.shard_builder.build.indexes import read_index
from tools.shard_builder.build.journal import ShardResult, mark_done, publish, read_claim, read_done, take
from tools.shard_builder.build.runners import open_local_engine, run_tasks
from tools.shard_builder.commands.arguments import add_workers_flag


class CopyError(UserError):
    """The source does not match its manifest."""


class _Task(NamedTuple):
    source: Store
    dest: Store
    result: ShardResult


def add_copy_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "copy", "copy a finished data set to another store, and verify it", _copy)
    command.add_argument("source", type=not_empty, metavar="FROM", help="URL of a data set")
    command.add_argument("dest", type=not_empty, metavar="TO", help="URL of an empty folder or an interrupted copy")
    add_workers_flag(command)
    add_json_flag(command)


def _copy(args: argparse.Namespace) -> None:
    manifest, num_copied = copy(Store(args.source), Store(args.dest), args.num_workers or os.cpu_count() or 1)
    if args.json:
        write_json(
            {
                "url": args.dest,
                "num_shards": len(manifest.shards),
                "num_shards_copied": num_copied,
                "num_samples": manifest.num_samples,
                "num_bytes": manifest.num_bytes,
                "manifest_digest": manifest.digest,
            }
        )
        return
    before = len(manifest.shards) - num_copied
    there = f", {before} were already there" if before else ""
    sys.stdout.write(
        f"{args.dest}: {manifest.num_samples:,} samples, {manifest.num_bytes / 1e6:,.1f} MB; "
        f"{num_copied} shards copied{there}\nmanifest digest {manifest.digest}\n"
    )


def copy(source: Store, dest: Store, num_workers: int = 1) -> tuple[Manifest, int]:
    """Copy the shards that `dest` lacks; returns the manifest and the number of copied shards.

    Needs disk space for one shard per worker: in `dest` if it is a local folder, else in the temporary folder
    (`TMPDIR`).

    Raises:
        CopyError: a shard of the source does not match its manifest.
        ClaimError: `dest` belongs to another build, or the source has no `_build` folder.
        UserError: a store cannot be read or written.
    """
    manifest = read_manifest(source)
    claim = read_claim(source)
    take(dest, claim)
    done, results = read_done(dest, claim), read_done(source, claim)
    missing = [result for index, result in results.items() if index not in done]
    tasks = [_Task(source, dest, result) for result in missing]
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(open_local_engine(num_workers, len(tasks))))
        advance = stack.enter_context(progress("copying shards", sum(map(_num_bytes, missing))))
        for result in run_tasks(engine, _copy_shard, tasks):
            advance(_num_bytes(result))
    copied = finish(dest, claim, max_rejects=manifest.num_rejects)
    if copied.digest != manifest.digest:
        raise CopyError(f"{dest.url} does not match the manifest of {source.url}; run 'shard-builder verify' on both")
    return manifest, sum(result.entry is not None for result in missing)


def _num_bytes(result: ShardResult) -> int:
    return result.entry.num_bytes if result.entry else 0


def _copy_shard(task: _Task) -> ShardResult:
    source, dest, result = task
    if entry := result.entry:
        with dest.scratch_folder() as scratch:  # a file of its own, never a link to a file of the source
            tar = scratch / entry.tar_name
            source.download(entry.tar_name, tar)
            if digest_file(tar) != entry.digest:
                raise CopyError(f"{source.url}/{entry.tar_name} does not have the digest that its manifest records")
            publish(dest, entry.tar_name, tar, entry.digest)
            index = read_index(source, entry)
            publish(dest, entry.index_name, index_to_bytes(index), entry.index_digest)
            for name, content in shard_sidecars(entry, tar, index).items():
                publish(dest, name, content, digest_bytes(content))
    mark_done(dest, result)
    return result
