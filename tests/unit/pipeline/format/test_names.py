"""A name from data is never a path: hostile manifests are refused in one sentence, and nothing is written outside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.format.manifest import MANIFEST_NAME, Manifest, ManifestError
from pipeline.format.names import UnsafeNameError, checked_name, inside
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store, StoreError
from support.shards import jpegs, write_shards
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
    manifest = json.loads(write_shards(tmp_path / "in/data", jpegs(1)).to_bytes())
    manifest["shards"][0]["name"] = name
    store.put(MANIFEST_NAME, json.dumps(manifest).encode())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManifestError, match=r"^manifest .* is not valid: 'shards\.0\.name': '.*cannot be the name"):
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
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest
