"""Damage to a finished data set: `verify` names it, and the reader hands out no sample of a damaged shard."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import Shards
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


def _all_of(data_set: Path) -> list[tuple[object, ...]]:
    """Whatever a reader can be given: images, labels, sizes, keys, and the whole samples of the tars."""
    batches = list(_samples(data_set))
    whole = [(s.key, s.class_names, s.metadata, s.ext, s.encoded) for s in Shards(data_set)]
    fields = [(bytes(b.images[0]), b.labels, b.heights, b.widths, b.orientations, b.read_keys(b.ids)) for b in batches]
    return [(*own, *other) for own, other in zip(fields, whole, strict=True)]


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    "count", [150, pytest.param(10_000, marks=[pytest.mark.acceptance, pytest.mark.timeout(3600)])]
)
def test_a_flipped_bit_is_found_or_harmless(
    data_set: Path, monkeypatch: pytest.MonkeyPatch, count: int, record_property: Callable[[str, object], None]
) -> None:
    """Anywhere in any file. `verify` finds all that a reader of any kind could meet; our reader never errs."""
    monkeypatch.setattr("pipeline.shards.verified._PAUSES_S", ())
    good = _all_of(data_set)
    files = [path for path in sorted(data_set.rglob("*")) if path.is_file()]
    bits = np.cumsum([8 * path.stat().st_size for path in files])
    draws = np.random.default_rng(0)
    tally = Counter[str]()
    for place in draws.integers(0, bits[-1], count).tolist():
        number = int(np.searchsorted(bits, place, side="right"))
        path, bit = files[number], place - int(bits[number - 1] if number else 0)
        _flip(path, bit)
        try:
            assert _all_of(data_set) == good
            found = "harmless"
        except UserError as error:
            assert "\n" not in str(error)
            found = "refused"
        with contextlib.suppress(UserError):
            is_seen = bool(verify(Store(data_set)).problems)
            assert is_seen or found == "harmless"
            # Not compared: the journal of the build, which `copy` checks, the list of rejects, white space of a head.
            assert is_seen or path.name in ("manifest.json", "rejects.jsonl") or "_build" in str(path)
            found += ", named by verify" if is_seen and found == "harmless" else ""
        tally[f"{''.join(path.suffixes)}: {found}"] += 1
        _flip(path, bit)
    record_property("flips", dict(tally))
    print(dict(tally))  # noqa: T201
    assert _all_of(data_set) == good


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
