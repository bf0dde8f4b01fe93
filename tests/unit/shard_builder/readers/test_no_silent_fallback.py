"""Where a named thing is missing, nothing else is taken in its stead: the message lists what is there."""

import gc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.miniature import write_tar
from support.shards import jpegs
from tools.shard_builder.build.run import BuildOptions, plan_build
from tools.shard_builder.readers import SourceError

(ONE,) = jpegs(1)


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(ONE)
    return root


def num_images(dataset: str, source: Path, split: str = "train", **options: Any) -> int:
    return plan_build(BuildOptions(dataset, source, split, "", **options)).num_images


@pytest.mark.parametrize("split", ["validation", "trian", "test"])
@pytest.mark.parametrize("names", [("train/ant/1.jpg", "val/ant/2.jpg"), ("train/1.jpg", "val/2.jpg")])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_another_split_is_not_taken(split: str, names: tuple[str, ...], unlabelled: bool, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(SourceError, match=rf"has no folder '{split}', but 'train', 'val'; name one of these"):
        num_images("image-folder", tmp_path, split, unlabelled=unlabelled)


@pytest.mark.parametrize(
    "folder", ["train", "Train", "training", "val2017", "test_images", "train_0", "TEST", "dev", "holdout"]
)
def test_a_folder_that_looks_like_a_split_is_no_class(folder: str, tmp_path: Path) -> None:
    write(tmp_path, f"{folder}/ant/1.jpg", "annotations/2.jpg")
    with pytest.raises(SourceError, match=f"but '{folder}'"):
        num_images("image-folder", tmp_path, "mine")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "boat/1.jpg", "train/1.jpg", "test tube/1.jpg", "validation/1.jpg")
    assert num_images("image-folder", tmp_path, "mine") == 4


def test_the_folder_itself_is_read_with_a_word(tmp_path: Path) -> None:
    write(tmp_path, "ant/1.jpg", "bee/1.jpg")
    plan = plan_build(BuildOptions("image-folder", tmp_path, "mine", ""))
    assert "no folder 'mine': its own folders are the classes, 'ant', 'bee'" in plan.notes[0]
    write(tmp_path, "mine/ant/1.jpg")
    assert plan_build(BuildOptions("image-folder", tmp_path, "mine", "")).notes == ()


def test_images_beside_the_folder_of_the_split_are_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "train/2.jpg")
    with pytest.raises(SourceError, match=r"has images itself and in .*/train; use --source"):
        num_images("image-folder", tmp_path, unlabelled=True)


def test_tars_of_another_split_are_not_taken(tmp_path: Path) -> None:
    for name in ("val-0.tar", "cc3m-test-1.tar"):
        write_tar(tmp_path / name, {"a.jpg": ONE})
    with pytest.raises(SourceError, match=r"neither is there; it holds 'cc3m-test-1\.tar', 'val-0\.tar'"):
        num_images("webdataset", tmp_path)
    write_tar(tmp_path / "cc3m-train-0.tar", {"a.jpg": ONE, "b.jpg": ONE})
    assert num_images("webdataset", tmp_path) == 2


def test_tars_without_a_split_in_their_names_are_taken_with_a_word(tmp_path: Path) -> None:
    for name in ("00000.tar", "00001.tar"):
        write_tar(tmp_path / name, {"a.jpg": ONE})
    plan = plan_build(BuildOptions("webdataset", tmp_path, "train", ""))
    assert plan.num_images == 2 and "no tar of" in plan.notes[0] and "taking all 2" in plan.notes[0]
    write_tar(tmp_path / "train-0.tar", {"a.jpg": ONE})
    plan = plan_build(BuildOptions("webdataset", tmp_path, "train", ""))
    assert plan.num_images == 1 and "not read: '00000.tar', '00001.tar'" in plan.notes[0]


def test_lists_and_tables_of_other_names_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "valid.csv").write_text("path,label\na.jpg,ant\n")
    with pytest.raises(SourceError, match=r"or to contain train\.csv or train\.parquet; it contains 'valid\.csv'"):
        num_images("image-list", tmp_path)
    pq.write_table(pa.table({"image": [ONE]}), tmp_path / "test-0.parquet")
    with pytest.raises(SourceError, match=r"train-\*\.parquet, but found 'test-0\.parquet'"):
        num_images("parquet", tmp_path)


def test_two_things_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "train.csv").write_text("path,label\na.jpg,ant\n")
    pq.write_table(pa.table({"path": ["a.jpg"], "label": ["ant"], "image": [ONE]}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.csv or train\.parquet, not both; give --source the one to read"):
        num_images("image-list", tmp_path)
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": [ONE]}), tmp_path / "data/train.parquet")
    with pytest.raises(SourceError, match=r"holds tables in data/ and beside it"):
        num_images("parquet", tmp_path)
    (tmp_path / "train.tsv").write_text("k\t0\t/9j/\n")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.tsv").write_text("k\t0\t/9j/\n")
    with pytest.raises(SourceError, match=r"train\.tsv or .*/train/\*\.tsv, both are there"):
        num_images("esvit-tsv", tmp_path)


def test_columns_are_compared_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("file,label,label\na.jpg,ant,bee\n")
    with pytest.raises(SourceError, match=r"no column 'path'; expected path, label; it has file, label, label"):
        num_images("image-list", tmp_path)
    (tmp_path / "train.csv").write_text("path,label,label\na.jpg,ant,bee\n")
    with pytest.raises(SourceError, match=r"has 2 columns 'label'"):
        num_images("image-list", tmp_path)


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_link_to_itself_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    write(tmp_path, "train/ant/1.jpg")
    (tmp_path / "train/bee").symlink_to("bee")
    with pytest.raises(SourceError, match=r"train/bee: Too many levels of symbolic links"):
        num_images("image-folder", tmp_path)
    gc.collect()
