"""A data set of the first format becomes one of the present format: same tars, new index and manifest, or nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.format.index import INDEX_DTYPE, load_index
from pipeline.format.manifest import ManifestError
from pipeline.format.rows import rows_to_bytes
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run, build_args
from tools.shard_builder.commands.upgrade import UpgradeError, upgrade
from tools.shard_builder.commands.verify import verify

OLD_COLUMNS = ["offset", "size", "label", "height", "width", "orientation"]


def to_first_format(folder: Path) -> None:
    """Turn a data set of the present format into what the first release wrote."""
    manifest = read_manifest(Store(folder))
    old_entries = []
    for number, entry in enumerate(manifest.shards):
        index = load_index(folder / entry.index_name, entry)
        rows = np.empty(len(index), [field for field in INDEX_DTYPE.descr if field[0] in OLD_COLUMNS])
        for column in OLD_COLUMNS:
            rows[column] = index[column]
        (folder / f"{entry.name}.index.npy").write_bytes(rows_to_bytes(rows))
        (folder / entry.index_name).unlink()
        old_entries.append(
            {
                "name": entry.name,
                "num_bytes": entry.num_bytes,
                "num_samples": entry.num_samples,
                "sha256": sha256_file(folder / entry.tar_name),
                "index_sha256": sha256_bytes(rows_to_bytes(rows)),
            }
        )
        marker = folder / f"_build/done/{number:06d}.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"entry": old_entries[-1]}))
    content = json.loads((folder / "manifest.json").read_text()) | {"schema_version": 1, "shards": old_entries}
    for name in ("checksum", "num_shards", "shards_digest", "left_out"):
        del content[name]
    (folder / "manifest.json").write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    (folder / "shards.npy").unlink()


@pytest.fixture
def data_set(run: Run, tiny_image_folder: Path, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A data set of the first format, and the files of the present one."""
    folder = tmp_path / "out"
    run(*build_args(tiny_image_folder, folder), "--keep-metadata")
    files = contents(folder)
    to_first_format(folder)
    return folder, files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_upgraded_data_set_is_the_one_that_a_build_makes(
    run: Run, data_set: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder, files = data_set
    with pytest.raises(ManifestError, match="has format 1"):
        read_manifest(Store(folder))
    tars = {path: path.stat().st_ino for path in folder.glob("*.tar")}
    assert f"{len(tars)} of {len(tars)} shards upgraded" in run("upgrade", folder)
    assert contents(folder) == files
    assert {path: path.stat().st_ino for path in folder.glob("*.tar")} == tars
    assert verify(Store(folder)).problems == ()
    assert "nothing to do" in run("upgrade", folder)
    run("copy", folder, tmp_path / "copy")
    report = json.loads(run("upgrade", folder, "--json"))
    assert report["num_shards_upgraded"] == 0 and report["num_shards"] == len(tars)


@pytest.mark.parametrize(("last", "num_done"), [("train-000002.samples.npy", 2), ("manifest.json", None)])
def test_a_killed_upgrade_leaves_the_old_data_set_and_goes_on(
    data_set: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, last: str, num_done: int | None
) -> None:
    folder, files = data_set
    before = contents(folder)
    put = Store.put

    def dying(store: Store, name: str, source: bytes | Path) -> None:
        if name == last:
            raise KeyboardInterrupt
        put(store, name, source)

    monkeypatch.setattr(Store, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        upgrade(Store(folder))
    after = contents(folder)
    num_shards = len(list(folder.glob("*.tar")))
    done = num_shards if num_done is None else num_done
    assert {name for name in before if after[name] != before[name]} == {
        f"_build/done/{i:06d}.json" for i in range(done)
    }
    monkeypatch.setattr(Store, "put", put)
    assert upgrade(Store(folder))[1] == num_shards - done and contents(folder) == files


def test_leftovers_of_a_kill_after_the_manifest_are_removed(data_set: tuple[Path, dict[str, bytes]]) -> None:
    folder, files = data_set
    old = (folder / "train-000000.index.npy").read_bytes()
    upgrade(Store(folder))
    (folder / "train-000000.index.npy").write_bytes(old)
    upgrade(Store(folder))
    assert contents(folder) == files


def test_a_data_set_whose_build_folder_was_deleted_is_upgraded(data_set: tuple[Path, dict[str, bytes]]) -> None:
    folder, files = data_set
    for path in folder.glob("_build/**/*.json"):
        path.unlink()
    upgrade(Store(folder))
    assert contents(folder) == {name: content for name, content in files.items() if not name.startswith("_build/")}


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.index.npy"])
def test_damage_is_named_and_the_manifest_stays(data_set: tuple[Path, dict[str, bytes]], name: str) -> None:
    folder, _ = data_set
    content = bytearray((folder / name).read_bytes())
    content[700 if name.endswith("tar") else -1] ^= 1
    (folder / name).write_bytes(content)
    manifest = (folder / "manifest.json").read_bytes()
    with pytest.raises(UpgradeError, match=rf"{name} does not have the SHA-256 of its manifest"):
        upgrade(Store(folder))
    assert (folder / "manifest.json").read_bytes() == manifest and not (folder / "shards.npy").exists()


@pytest.mark.parametrize("change", [{"num_samples": "many"}, {"shards": 7}, {"colour": "red"}])
def test_a_manifest_that_is_no_manifest_is_named(
    data_set: tuple[Path, dict[str, bytes]], change: dict[str, object]
) -> None:
    folder, _ = data_set
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        ManifestError, match=rf"manifest\.json is no valid manifest of format 1: '{next(iter(change))}'"
    ):
        upgrade(Store(folder))
