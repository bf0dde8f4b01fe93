"""Bring a data set of format 1 to the present format: the command `shard-builder upgrade`.

Tars stay untouched. Each tar is read once, compared with the old manifest, and gets a new index with checksums. The new
manifest replaces the old one last, so a killed upgrade leaves the old data set, and the same command goes on.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from pipeline.config import Config
from pipeline.console.command import Commands, add_command, add_json_flag, write_json
from pipeline.console.progress import progress
from pipeline.errors import UserError
from pipeline.format.checksum import digest_bytes, digest_file, sha256_bytes, sha256_file
from pipeline.format.index import INDEX_DTYPE, Index, index_to_bytes
from pipeline.format.manifest import MANIFEST_NAME, Manifest, ManifestError, Spread
from pipeline.format.rows import RowsError, rows_from_bytes
from pipeline.format.shard_table import TABLE_NAME, ShardEntry, ShardTable
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.indexes import sample_checksums
from tools.shard_builder.build.journal import ShardResult, done_name, mark_done
from tools.shard_builder.build.runners import open_local_engine, run_tasks
from tools.shard_builder.commands.arguments import add_url_argument, add_workers_flag
from tools.shard_builder.commands.samples import local_tar

_NEW_COLUMNS = ("checksum", "head_checksum")
_OLD_DTYPE = np.dtype([field for field in INDEX_DTYPE.descr if field[0] not in _NEW_COLUMNS])


class UpgradeError(UserError):
    """The old data set does not match its manifest."""


class _OldEntry(Config):
    name: str
    num_bytes: PositiveInt
    num_samples: PositiveInt
    sha256: str
    index_sha256: str

    @property
    def index_name(self) -> str:
        return f"{self.name}.index.npy"


class _OldManifest(Config):
    schema_version: int
    dataset: str
    split: str
    classes: tuple[str, ...]
    shards: tuple[_OldEntry, ...]
    num_samples: PositiveInt
    num_bytes: PositiveInt
    num_rejects: NonNegativeInt
    left_out: dict[str, NonNegativeInt] = Field(default_factory=dict)
    image_height: Spread
    image_width: Spread
    image_bytes: Spread
    plan_digest: str


class _Task(NamedTuple):
    store: Store
    old: _OldEntry


def add_upgrade_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "upgrade", "bring a data set of format 1 to the present format", _upgrade)
    add_url_argument(command)
    add_workers_flag(command)
    add_json_flag(command)


def _upgrade(args: argparse.Namespace) -> None:
    manifest, num_upgraded = upgrade(Store(args.url), args.num_workers or os.cpu_count() or 1)
    if args.json:
        counts = {"num_shards": len(manifest.shards), "num_shards_upgraded": num_upgraded}
        write_json({"url": args.url, **counts, "manifest_digest": manifest.digest})
        return
    did = f"{num_upgraded:,} of {len(manifest.shards):,} shards upgraded" if num_upgraded else "nothing to do"
    sys.stdout.write(f"{args.url}: {did}\nmanifest digest {manifest.digest}\n")


def upgrade(store: Store, num_workers: int = 1) -> tuple[Manifest, int]:
    """Upgrade the data set in `store`; returns the manifest and the number of shards upgraded by this call.

    Raises:
        UpgradeError: a tar or an index does not match the old manifest.
        UserError: there is no data set, or the store cannot be read or written.
    """
    old = _read_old(store)
    if old is None:
        manifest = read_manifest(store)
        _delete_old_indexes(store)
        return manifest, 0
    markers = _markers(store)
    entries = {name: entry for name, marker in markers.items() if (entry := _upgraded(store, marker))}
    missing = [shard for shard in old.shards if shard.name not in entries]
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(open_local_engine(num_workers, len(missing))))
        advance = stack.enter_context(progress("upgrading shards", sum(shard.num_bytes for shard in missing)))
        for entry in run_tasks(engine, _upgrade_shard, [_Task(store, shard) for shard in missing]):
            entries[entry.name] = entry
            if entry.name in markers:
                mark_done(store, ShardResult.model_validate({**markers[entry.name], "entry": entry}))
            advance(entry.num_bytes)
    table = ShardTable.of(entries[shard.name] for shard in old.shards)
    manifest = Manifest.model_validate({**old.model_dump(exclude={"schema_version"}), "shards": table})
    store.put(TABLE_NAME, table.to_bytes())
    store.put(MANIFEST_NAME, manifest.to_bytes())
    _delete_old_indexes(store)
    return manifest, len(missing)


def _read_old(store: Store) -> _OldManifest | None:
    """The manifest, if it has format 1. Anything else is left to `read_manifest`."""
    if not store.exists(MANIFEST_NAME):
        return None
    try:
        content = json.loads(store.read(MANIFEST_NAME))
        if not isinstance(content, dict) or content.get("schema_version") != 1:
            return None
        return _OldManifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ManifestError(
            f"manifest {store.url}/{MANIFEST_NAME} is no valid manifest of format 1: "
            f"'{'.'.join(map(str, fault['loc']))}': {fault['msg']}"
        ) from None
    except (ValueError, RecursionError):
        return None


def _markers(store: Store) -> dict[str, dict[str, Any]]:
    """The done markers of the build, by the name of their shard. They are also the journal of the upgrade."""
    found = {}
    for name in store.list(done_name(0).rpartition("/")[0] + "/"):
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
            marker = json.loads(store.read(name))
            found[str(marker["entry"]["name"])] = marker
    return found


def _upgraded(store: Store, marker: dict[str, Any]) -> ShardEntry | None:
    """The entry of a shard that an interrupted upgrade has finished."""
    try:
        entry = ShardResult.model_validate(marker).entry
    except ValidationError:
        return None  # of format 1
    return entry if entry and store.exists(entry.index_name) else None


def _upgrade_shard(task: _Task) -> ShardEntry:
    store, old = task
    content = store.read(old.index_name)
    if sha256_bytes(content) != old.index_sha256:
        raise UpgradeError(f"{store.url}/{old.index_name} does not have the SHA-256 of its manifest; {_REMEDY}")
    try:
        rows = rows_from_bytes(content, _OLD_DTYPE, old.num_samples)
    except RowsError as error:
        raise UpgradeError(f"{store.url}/{old.index_name} {error}; {_REMEDY}") from None
    entry = ShardEntry(
        name=old.name, num_bytes=old.num_bytes, num_samples=old.num_samples, digest="0" * 64, index_digest="0" * 64
    )
    with local_tar(store, entry) as tar:
        if sha256_file(tar) != old.sha256:
            raise UpgradeError(f"{store.url}/{entry.tar_name} does not have the SHA-256 of its manifest; {_REMEDY}")
        index = index_to_bytes(_with_checksums(rows, tar))
        digest = digest_file(tar)
    store.put(entry.index_name, index)
    return entry.replace(digest=digest, index_digest=digest_bytes(index))


_REMEDY = "it was damaged: build the shards again"


def _with_checksums(rows: Index, tar: Path) -> Index:
    index = np.zeros(len(rows), INDEX_DTYPE)
    for column in _OLD_DTYPE.names or ():
        index[column] = rows[column]
    index["checksum"], index["head_checksum"] = sample_checksums(index, tar)
    return index


def _delete_old_indexes(store: Store) -> None:
    for name in store.list():
        if name.endswith(".index.npy"):
            store.delete(name)
