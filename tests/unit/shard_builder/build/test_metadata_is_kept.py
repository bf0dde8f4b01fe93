"""`--keep-metadata`: what a source knows beside the label goes into the shards, and nothing else changes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.format.tar import TarSample, iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify


def samples(dataset: str, source: Path, dest: Path, *, keep_metadata: bool = True) -> list[TarSample]:
    """What lies in the shards of a build that was verified."""
    build(BuildOptions(dataset, source, "train", str(dest), shard_bytes=20_000, keep_metadata=keep_metadata))
    assert verify(Store(dest)).problems == ()
    manifest = read_manifest(Store(dest))
    return [sample for entry in manifest.shards for sample in iter_samples(dest / entry.tar_name)]


def kept(found: list[TarSample]) -> dict[str, Any]:
    """Metadata by path in the source."""
    parsed = [json.loads(sample.metadata) for sample in found]
    return {metadata["path"]: metadata.get("metadata") for metadata in parsed}


@pytest.fixture
def rows(tiny_image_folder: Path) -> list[dict[str, str]]:
    files = sorted((tiny_image_folder / "train").glob("*/*"))
    return [
        {"path": str(path), "label": path.parent.name, "licence": "CC-BY", "author": f"author {i} é"}
        for i, path in enumerate(files)
    ]


def test_every_source_keeps_its_paths(tiny_image_folder: Path, tmp_path: Path) -> None:
    found = kept(samples("image-folder", tiny_image_folder, tmp_path / "out"))
    assert found == {
        str(path.relative_to(tiny_image_folder / "train")): None for path in tiny_image_folder.glob("train/*/*")
    }


def test_nothing_is_kept_unasked(tiny_image_folder: Path, tmp_path: Path) -> None:
    with_it = samples("image-folder", tiny_image_folder, tmp_path / "with")
    without = samples("image-folder", tiny_image_folder, tmp_path / "without", keep_metadata=False)
    assert not any(sample.metadata for sample in without)
    assert {(s.key, s.label, s.image) for s in with_it} == {(s.key, s.label, s.image) for s in without}


def test_columns_of_a_csv(rows: list[dict[str, str]], tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    found = kept(samples("image-list", table, tmp_path / "out"))
    assert found == {row["path"]: {"licence": row["licence"], "author": row["author"]} for row in rows}


def test_columns_of_parquet(rows: list[dict[str, str]], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="an extra of its own, which `make setup` installs")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = kept(samples("image-list", tmp_path / "train.parquet", tmp_path / "listed"))
    assert found[rows[3]["path"]] == {"licence": "CC-BY", "author": rows[3]["author"]}
    images = [
        {"image": {"bytes": Path(row["path"]).read_bytes(), "path": "x"}, "label": i % 3, "author": row["author"]}
        for i, row in enumerate(rows)
    ]
    (tmp_path / "images").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(images), tmp_path / "images/train-0.parquet", row_group_size=5)
    found = kept(samples("parquet", tmp_path / "images", tmp_path / "out"))
    assert found == {f"train-0.parquet/{i:08d}": {"author": row["author"]} for i, row in enumerate(rows)}


def test_shards_from_shards_keep_what_they_had(tiny_image_folder: Path, tmp_path: Path) -> None:
    first = samples("image-folder", tiny_image_folder, tmp_path / "first")
    again = samples("webdataset", tmp_path / "first", tmp_path / "again")
    assert {s.image: json.loads(s.metadata)["metadata"] for s in again} == {
        s.image: json.loads(s.metadata) for s in first
    }
