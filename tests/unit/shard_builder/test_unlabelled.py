"""`--unlabelled`: images without labels, from the source to every reader. Absent is not zero."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.format.index import MULTI_LABEL, UNLABELLED
from pipeline.format.tar import iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from pipeline.stream import StreamConfig, open_training_stream
from support.command import Run
from support.miniature import write_tar
from support.shards import jpegs
from tools.shard_builder.build.indexes import read_indexes
from tools.shard_builder.commands.verify import verify


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images: some in it, some deeper."""
    root = tmp_path / "photos"
    for i, data in enumerate(jpegs(9)):
        path = root / ("", "2023", "2024/june")[i % 3] / f"IMG_{i}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def build_args(dataset: str, source: Path, dest: Path) -> list[object]:
    words: list[object] = ["--shard-size", "6kB", "--num-workers", 1, "--unlabelled"]
    return ["build", "--dataset", dataset, "--source", source, "--split", "train", "--dest", dest, *words]


@pytest.fixture
def shards(run: Run, photos: Path, tmp_path: Path) -> Path:
    assert "9 samples without labels" in run(*build_args("image-folder", photos, tmp_path / "out"))
    return tmp_path / "out"


def test_every_image_of_a_folder_is_taken_and_no_label_is_invented(shards: Path, photos: Path) -> None:
    manifest = read_manifest(Store(shards))
    samples = [sample for entry in manifest.shards for sample in iter_samples(shards / entry.tar_name)]
    assert manifest.classes == () and len(manifest.shards) > 1
    assert sorted(sample.image for sample in samples) == sorted(path.read_bytes() for path in photos.rglob("*.JPG"))
    assert {(sample.label, sample.labels) for sample in samples} == {(None, ())}
    labels = np.concatenate([index["label"] for index in read_indexes(Store(shards), manifest.shards)])
    assert set(labels.tolist()) == {UNLABELLED}
    assert UNLABELLED < 0 and UNLABELLED != MULTI_LABEL


def test_the_folder_of_the_split_is_read_where_there_is_one(run: Run, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos / "2023", root / "val")
    assert "9 samples without labels" in run(*build_args("image-folder", root, tmp_path / "train"))


def test_verify_stats_show_diff_copy_and_plan_know_it(run: Run, shards: Path, photos: Path, tmp_path: Path) -> None:
    assert run("verify", shards, "--decode").startswith("ok: ")
    assert "unlabelled" in run("stats", shards)
    stats = json.loads(run("stats", shards, "--json"))
    assert (stats["num_classes"], stats["samples_per_class"], stats["num_samples"]) == (0, {}, 9)
    run("stats", shards, "--html", tmp_path / "page.html")
    assert "unlabelled" in (tmp_path / "page.html").read_text()
    assert run("show", shards, "--output", tmp_path / "sheet.png").count("(unlabelled)") == 9
    run("copy", shards, tmp_path / "copy")
    assert run("diff", shards, tmp_path / "copy") == "no difference\n"
    assert run("verify", tmp_path / "copy").startswith("ok: ")
    words = ["--world-size", 1, "--ranks-per-node", 1, "--global-batch", 4, "--lanes", 1, "--json"]
    args = ["plan", "--dataset", "image-folder", "--source", photos, "--split", "train", "--unlabelled"]
    assert json.loads(run(*args, *words))["classes"] == 0


def test_diff_tells_unlabelled_from_labelled(run: Run, shards: Path, photos: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(photos)},ant" for path in photos.rglob("*.JPG")]
    (photos / "train.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    args = build_args("image-list", photos, tmp_path / "labelled")
    run(*args[:-1])
    assert run("diff", shards, tmp_path / "labelled", status=1).count("is (unlabelled) in A, ant in B") == 9


def test_a_list_needs_no_labels(run: Run, photos: Path, tmp_path: Path) -> None:
    paths = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.JPG"))]
    (photos / "train.csv").write_text("\n".join(["path", *paths]) + "\n")
    assert "9 samples without labels" in run(*build_args("image-list", photos, tmp_path / "csv"))
    pq.write_table(pa.table({"path": paths, "label": [None] * 9}), photos / "rows.parquet")
    assert "9 samples without labels" in run(*build_args("image-list", photos / "rows.parquet", tmp_path / "parquet"))


@pytest.mark.parametrize("dataset", ["webdataset", "parquet"])
@pytest.mark.parametrize("flag", [True, False])
def test_tars_and_tables_without_labels(dataset: str, flag: bool, run: Run, tmp_path: Path) -> None:
    images = jpegs(3)
    if dataset == "webdataset":
        write_tar(tmp_path / "train-0.tar", {f"{i}.jpg": data for i, data in enumerate(images)})
    else:
        pq.write_table(pa.table({"image": images}), tmp_path / "train.parquet")
    args = build_args(dataset, tmp_path, tmp_path / "out")
    assert "3 samples without labels" in run(*(args if flag else args[:-1]))
    assert verify(Store(tmp_path / "out")).problems == ()


def test_labels_that_are_there_are_left_out_on_request(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    args = build_args("image-folder", tiny_image_folder, tmp_path / "folder")
    assert "36 samples without labels" in run(*args)
    labelled = ["--dest" if word == "--dest" else word for word in args[:-1]]
    labelled[labelled.index(tmp_path / "folder")] = tmp_path / "labelled"
    run(*labelled)
    again = build_args("webdataset", tmp_path / "labelled", tmp_path / "again")
    assert "36 samples without labels" in run(*again)
    twice = build_args("webdataset", tmp_path / "again", tmp_path / "twice")
    assert "36 samples without labels" in run(*twice[:-1])


def test_a_flat_folder_without_the_flag_gets_a_sentence_that_names_it(run: Run, photos: Path, tmp_path: Path) -> None:
    shutil.rmtree(photos / "2023")
    shutil.rmtree(photos / "2024")
    args = build_args("image-folder", photos, tmp_path / "out")
    assert "--unlabelled" in run(*args[:-1], status=2)


def test_verify_finds_labels_where_the_manifest_promises_none(shards: Path, tmp_path: Path) -> None:
    manifest = read_manifest(Store(shards))
    shutil.copytree(shards, tmp_path / "wrong")
    wrong = manifest.replace(classes=("ant",))
    (tmp_path / "wrong/manifest.json").write_bytes(wrong.to_bytes())
    problems = verify(Store(tmp_path / "wrong")).problems
    assert len(problems) == 9 + 1 and "has no label; by the manifest" in problems[0]
    assert problems[-1].startswith(".nv-meta/dataset.yaml")


def test_a_batch_says_unlabelled(shards: Path, tmp_path: Path) -> None:
    stream = open_training_stream(
        StreamConfig(shards=str(shards), cache={"folder": str(tmp_path / "cache")}, order={"lanes": 1}), 0, 4
    )
    assert next(iter(stream)).labels.tolist() == [UNLABELLED] * 4
