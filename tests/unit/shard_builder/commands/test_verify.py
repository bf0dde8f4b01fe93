"""Verification finds every contradiction and names the shard."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes
from pipeline.format.index import index_to_bytes, load_index
from pipeline.format.manifest import MANIFEST_NAME
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify


@pytest.fixture
def shards(tiny_image_folder: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "out"
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(dest), shard_bytes=20_000))
    return dest


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda d: (d / "train-000001.tar").unlink(), "train-000001: cannot read .* there is no such object"),
        (lambda d: flip(d / "train-000001.tar"), "train-000001.tar: its content does not have the hash"),
        (
            lambda d: (d / "train-000001.tar").write_bytes((d / "train-000000.tar").read_bytes()[:5120]),
            "train-000001.tar: 5120 bytes, the manifest records",
        ),
        (lambda d: (d / "train-000001.index.npy").unlink(), "train-000001: cannot read index"),
        (
            lambda d: (d / "train-000001.index.npy").write_bytes((d / "train-000000.index.npy").read_bytes()),
            "train-000001: index .* does not have the hash",
        ),
    ],
)
def test_names_the_shard(shards: Path, harm: Callable[[Path], None], problem: str) -> None:
    harm(shards)
    (found,) = verify(Store(shards)).problems
    assert re.match(problem, found)


@pytest.mark.parametrize("column", ["offset", "size", "label"])
def test_compares_the_index_with_the_tar(shards: Path, column: str) -> None:
    """An index that is wrong and signed: the hashes agree, the content does not."""
    store = Store(shards)
    manifest = read_manifest(store)
    entry = manifest.shards[0]
    index = np.array(load_index(shards / entry.index_name, entry))
    index[column][1] += 1
    store.put(entry.index_name, index_to_bytes(index))
    forged = entry.replace(index_sha256=sha256_bytes(index_to_bytes(index)))
    store.put(MANIFEST_NAME, manifest.replace(shards=(forged, *manifest.shards[1:])).to_bytes())
    (problem,) = verify(store).problems
    assert problem.startswith("train-000000.tar: sample ") and problem.endswith("what the index says")


def test_lists_every_problem(shards: Path) -> None:
    flip(shards / "train-000000.tar")
    (shards / "train-000002.tar").unlink()
    assert [problem[:12] for problem in verify(Store(shards)).problems] == ["train-000000", "train-000002"]


def test_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="build has not finished"):
        verify(Store(tmp_path))
