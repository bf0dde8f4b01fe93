"""A name from data is never a path: hostile manifests are refused in one sentence, and nothing is written outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.format.manifest import ManifestError
from pipeline.format.names import UnsafeNameError, checked_name, first_unsafe, inside
from pipeline.format.rows import RowsError
from pipeline.format.shard_table import ShardEntry, ShardTable
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store, StoreError
from support.shards import jpegs, sign, write_shards
from tools.shard_builder.commands.copy import copy
from tools.shard_builder.commands.diff import diff
from tools.shard_builder.commands.stats import collect_stats
from tools.shard_builder.commands.verify import verify

HOSTILE = [
    "../x", "..", ".", "", "/etc/x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", ".hidden", "-rf", "~", "a b", "ä",
    "x" * 201, "x" * 100_000, "CON:", "a\u202eb", "%2e%2e%2fx", "x\n",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_could_be_a_path_is_refused(name: str, tmp_path: Path) -> None:
    for refuse in (checked_name, lambda text: inside(tmp_path, text)):
        with pytest.raises(UnsafeNameError, match="cannot be the name of a file") as caught:
            refuse(name)
        assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["train-000000", "a", "A.b_c-1", "_x", "x" * 200])
def test_the_names_of_shards_are_taken(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "", "a\0b", "..", "x" * 300, "\x1b[2J"], ids=ascii)
@pytest.mark.parametrize(
    "use",
    [
        read_manifest,
        verify,
        lambda store: list(diff(store, store)),
        collect_stats,
        lambda store: copy(store, Store(f"{store.url}-copy")),
    ],
    ids=["read", "verify", "diff", "stats", "copy"],
)
def test_a_hostile_manifest_is_refused_by_every_reader(name: str, use: Callable[[Store], Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "in/data")
    entries = list(write_shards(tmp_path / "in/data", jpegs(1), jpegs(1, 9)).shards)
    sign(store, [entries[0], entries[1].model_copy(update={"name": name})])  # which is not validated
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManifestError, match=r"^shards\.npy beside .* names a shard .*, which cannot be the name"):
        use(store)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a\0b"], ids=ascii)
def test_no_object_lies_outside_its_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    store = Store(tmp_path / "store")
    actions = [store.read, store.exists, store.size, store.delete, store.local_path, lambda text: store.put(text, b"")]
    for action in actions:
        with pytest.raises(StoreError, match="a name cannot lead out of its store"):
            action(name)
    assert (tmp_path / "x").read_bytes() == b"outside" and len(list(tmp_path.iterdir())) == 1


def test_our_own_manifests_pass(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, jpegs(1))
    assert read_manifest(Store(tmp_path)) == manifest


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_table_of_names_is_checked_as_one_name_is(name: str) -> None:
    names = np.array([b"a", name.encode(), b"b"])
    stored = names[1].decode()  # NumPy drops zero bytes at the end
    assert first_unsafe(names) == stored
    assert first_unsafe(np.array([b"train-000000", b"A.b_c-1", b"_"])) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_bytes": 2**63}, "num_bytes is not between 1 and"),
        ({"num_bytes": 0}, "num_bytes is not between 1 and"),
        ({"num_samples": 2**64 - 1}, "num_samples is not between 1 and"),
    ],
)
def test_sizes_that_no_shard_has_are_refused(changes: dict[str, int], fault: str, tmp_path: Path) -> None:
    entry = write_shards(tmp_path, jpegs(1)).shards[0].model_copy(update=changes)
    content = ShardTable.of([entry]).to_bytes()
    with pytest.raises(RowsError, match=fault):
        ShardTable.from_bytes(content, 1, "")


def test_an_entry_with_a_path_for_a_name_cannot_be_made() -> None:  # as in the done marker of a hostile build
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        ShardEntry(name="../x", num_bytes=1, num_samples=1, digest="", index_digest="")
