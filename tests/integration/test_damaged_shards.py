"""Damage to a finished data set: `verify` names it, and the reader hands out no sample of a damaged shard."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.order import SequentialOrder
from pipeline.shards.data_sets import open_data_set, read_manifest
from pipeline.store import Store
from pipeline.stream import SampleStream, StreamConfig
from pipeline.stream.encoded import EncodedBatch
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify

BLOCK = 512


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four tiny samples in two shards."""
    folder = tmp_path_factory.mktemp("damage")
    rng = np.random.default_rng(0)
    for label in ("ant", "bee"):
        for i in range(2):
            path = folder / "images/train" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    shards = folder / "shards"
    build(BuildOptions("image-folder", folder / "images", "train", str(shards), shard_bytes=4000))
    assert len(read_manifest(Store(str(shards))).shards) >= 2
    return shards


@pytest.fixture
def data_set(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "shards"))


def _samples(data_set: Path) -> Iterator[EncodedBatch]:
    """Sample by sample, without look-ahead, so that what is handed out before an error shows."""
    opened = open_data_set(str(data_set))
    num_samples = opened.manifest.num_samples
    config = StreamConfig(shards=str(data_set), shard_look_ahead_bytes=0, sample_look_ahead_steps=0)
    stream = iter(SampleStream([opened], SequentialOrder(num_samples, 1), config))
    for _ in range(num_samples):
        yield next(stream)


def _assert_refused(data_set: Path, name: str) -> None:
    assert any(name in problem for problem in verify(Store(str(data_set))).problems)
    with pytest.raises(UserError, match=name):
        next(_samples(data_set))


def _first_tar(data_set: Path) -> Path:
    return min(data_set.glob("*.tar"))


def test_the_whole_data_set_reads(good: Path) -> None:
    assert not verify(Store(str(good))).problems
    assert sorted(int(batch.labels[0]) for batch in _samples(good)) == [0, 0, 1, 1]


def test_a_tar_cut_at_any_block_is_refused(data_set: Path) -> None:
    tar = _first_tar(data_set)
    whole = tar.read_bytes()
    assert len(whole) % BLOCK == 0
    for length in range(0, len(whole), BLOCK):
        tar.write_bytes(whole[:length])
        _assert_refused(data_set, tar.stem)


def test_a_flipped_bit_anywhere_is_refused(data_set: Path) -> None:
    tar = _first_tar(data_set)
    whole = tar.read_bytes()
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        tar.write_bytes(damaged)
        _assert_refused(data_set, tar.stem)


def _swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize("pattern", ["*.tar", "*.samples.npy"])
def test_swapped_files_are_refused(data_set: Path, pattern: str) -> None:
    first, second, *_ = sorted(data_set.glob(pattern))
    _swap(first, second)
    _assert_refused(data_set, _first_tar(data_set).stem)


def _move_rows(index: Path) -> None:
    rows = np.load(index)
    rows["offset"] += BLOCK  # as of another tar
    np.save(index, rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index.write_bytes(index.read_bytes()[:-1]),
        lambda index: index.unlink(),
        _move_rows,
    ],
    ids=["cut", "missing", "stale"],
)
def test_a_wrong_index_is_refused(data_set: Path, damage: Callable[[Path], None]) -> None:
    damage(min(data_set.glob("*.samples.npy")))
    _assert_refused(data_set, _first_tar(data_set).stem)
