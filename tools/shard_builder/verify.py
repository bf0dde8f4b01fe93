"""Verification: does every byte of a finished data set agree with its manifest?"""

import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.format.checksum import sha256_file
from pipeline.format.manifest import Manifest, ShardEntry
from pipeline.format.tar import index_label, iter_samples
from pipeline.store import Store, read_manifest
from tools.shard_builder.indexes import read_index
from tools.shard_builder.progress import progress

_NUM_THREADS = 4  # hashing releases the interpreter lock; each thread needs the disk space of one shard


class Verification(NamedTuple):
    """The manifest, and one sentence for everything that contradicts it."""

    manifest: Manifest
    problems: tuple[str, ...]


def verify(store: Store) -> Verification:
    """Check every shard: size, hash, index, and each index row against the tar.

    Shards of a remote store are downloaded to the temporary folder (`TMPDIR`) one by one.

    Raises:
        UserError: there is no manifest, or it is not valid.
    """
    manifest = read_manifest(store)

    def check(entry: ShardEntry) -> list[str]:
        problems = _check_shard(store, entry, len(manifest.classes))
        advance(entry.num_bytes)
        return problems

    with (
        progress("verifying shards", manifest.num_bytes) as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        problems = tuple(itertools.chain.from_iterable(pool.map(check, manifest.shards)))
    return Verification(manifest, problems)


def _check_shard(store: Store, entry: ShardEntry, num_classes: int) -> list[str]:
    try:
        if (size := store.size(entry.tar_name)) != entry.num_bytes:
            return [f"{entry.tar_name}: {size} bytes, the manifest records {entry.num_bytes}"]
        with tempfile.TemporaryDirectory(prefix="shard-builder-") as scratch:
            tar = store.local_path(entry.tar_name)
            if tar is None:
                tar = Path(scratch) / entry.tar_name
                store.download(entry.tar_name, tar)
            if sha256_file(tar) != entry.sha256:
                return [f"{entry.tar_name}: its content does not have the hash that the manifest records"]
            return _check_rows(store, entry, tar, num_classes)
    except UserError as error:
        return [f"{entry.name}: {error}"]


def _check_rows(store: Store, entry: ShardEntry, tar: Path, num_classes: int) -> list[str]:
    """The rows of the index against the members of the tar; one sentence a wrong sample."""
    problems: list[str] = []
    index = read_index(store, entry)
    for row, sample in itertools.zip_longest(index, iter_samples(tar)):
        if row is None or sample is None:
            return [*problems, f"{entry.tar_name}: does not hold the {entry.num_samples} samples of its index"]
        if (row["offset"], row["size"], row["label"]) != (sample.offset, len(sample.image), index_label(sample.label)):
            problems.append(f"{entry.tar_name}: sample {sample.key} is not where or what the index says")
        elif not all(0 <= label < num_classes for label in sample.labels):
            problems.append(f"{entry.tar_name}: sample {sample.key} has label {sample.label}, which is no class")
    return problems
