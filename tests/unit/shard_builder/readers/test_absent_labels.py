"""Absent is not zero: what has no label is unlabelled or refused, by name; it never becomes a class."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.miniature import Miniature, found, write_tar
from support.shards import jpegs
from tools.shard_builder.build.run import BuildOptions, plan_build
from tools.shard_builder.readers import DATASETS, SourceError
from tools.shard_builder.readers.labels import COLUMNS

ONE, TWO, THREE = jpegs(3)


def labels(dataset: str, source: Path) -> list[Any]:
    """In the order of the source."""
    return [record.label for record in DATASETS[dataset].open(source, "train").records()]


def notes(dataset: str, source: Path, **options: Any) -> str:
    return " ".join(plan_build(BuildOptions(dataset, source, "train", "", **options)).notes)


def test_of_tar_samples_of_which_some_have_no_label_the_first_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"0", "a.jpg": ONE, "b.jpg": TWO, "c.jpg": THREE})
    with pytest.raises(SourceError, match=r"train-0\.tar/b\.jpg has no label, but .*a\.jpg has; .*--unlabelled"):
        labels("webdataset", tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(
        SourceError, match=r"train-0\.tar/b\.jpg has no label, but other images have labels; .*--unlabelled"
    ):
        labels("webdataset", tmp_path)


def test_tars_without_labels_are_unlabelled_and_say_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.jpg": ONE, "b.json": b'{"label": null}', "b.jpg": TWO})
    assert labels("webdataset", tmp_path) == [None, None]
    assert "no sample" in notes("webdataset", tmp_path) and "building unlabelled" in notes("webdataset", tmp_path)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b'{"label": 7}', 7),
        (b'{"label": 7.0}', 7),
        (b'{"labels": 3}', 3),
        (b'{"label": [5, 2, 5]}', (2, 5)),
        (b'{"labels": [4], "label": null}', (4,)),
    ],
)
def test_labels_in_json_are_read(text: bytes, label: Any, tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.json": text, "a.jpg": ONE})
    assert labels("webdataset", tmp_path) == [label]


@pytest.mark.parametrize(
    "files",
    [
        {"a.json": b'{"label": "cat"}'},
        {"a.json": b'{"label": 1.5}'},
        {"a.json": b'{"label": NaN}'},
        {"a.json": b'{"label": [null]}'},
        {"a.json": b'{"label": {"id": 7}}'},
        {"a.json": b"{"},
        {"a.json": b"[" * 100_000},
        {"a.cls": b""},
        {"a.cls": "٣".encode()},
        {"a.cls": b"1_0"},
        {"a.cls": b"9" * 5000},
    ],
)
def test_a_garbled_label_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {**files, "a.jpg": ONE})
    with pytest.raises(SourceError, match=r"the label of train-0\.tar/a\.jpg is garbled"):
        labels("webdataset", tmp_path)


@pytest.mark.parametrize("label", [b"-1", b"999999999"])
def test_a_number_that_is_no_class_is_refused(label: bytes, tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": label, "a.jpg": ONE, "b.cls": b"0", "b.jpg": TWO})
    with pytest.raises(SourceError, match=r"-1|999999999"):
        labels("webdataset", tmp_path)


def test_images_and_labels_that_are_not_side_by_side_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.jpg": ONE, "b.jpg": TWO, "a.cls": b"0", "b.cls": b"1"})
    with pytest.raises(SourceError, match=r"members of sample 'a' are not side by side.*sorted by name"):
        labels("webdataset", tmp_path)


def test_two_samples_of_one_key_in_a_tar_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.jpg": ONE, "A/a.jpg": TWO, "a.JPG": THREE})
    with pytest.raises(SourceError, match=r"sample 'a' are not side by side, or two samples have that key"):
        labels("webdataset", tmp_path)
    write_tar(tmp_path / "train-0.tar", {"a.jpg": ONE, "a.JPG": THREE})
    with pytest.raises(SourceError, match=r"two members a\.jpg; give each sample a key of its own"):
        labels("webdataset", tmp_path)


def test_one_label_and_several_per_image_are_not_mixed(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"0", "a.jpg": ONE, "b.json": b'{"labels": [0]}', "b.jpg": TWO})
    with pytest.raises(SourceError, match=r"a\.jpg and .*b\.jpg have labels of two kinds"):
        labels("webdataset", tmp_path)


def write_list(source: Path, suffix: str, column: str, values: list[Any]) -> None:
    """Images 0.jpg, 1.jpg, ... and a table of them."""
    mini = Miniature(source)
    paths = [f"{i}.jpg" for i in range(len(values))]
    for path, data in zip(paths, jpegs(len(values)), strict=True):
        mini.file(path, data)
    if suffix == "csv":
        cells = ["" if value is None else str(value) for value in values]
        mini.text("train.csv", f"path,{column}", *map(",".join, zip(paths, cells, strict=True)))
    else:
        pq.write_table(pa.table({"path": paths, column: values}), source / "train.parquet")


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("csv", ["ant", None]),
        ("csv", ["ant", "nan"]),
        ("csv", ["ant", "None"]),
        ("csv", [1, "NaN"]),
        ("parquet", ["ant", None]),
        ("parquet", ["ant", ""]),
        ("parquet", [1.0, float("nan")]),
        ("parquet", [1, None]),
        ("parquet", [[1], None]),
        ("parquet", [[1], [None]]),
    ],
)
def test_an_empty_label_in_a_list_is_refused_by_its_row_or_left_out_on_request(
    suffix: str, values: list[Any], tmp_path: Path
) -> None:
    write_list(tmp_path, suffix, "label", values)
    with pytest.raises(SourceError, match=rf"row 2 of .*train\.{suffix} has no label .*--unlabelled"):
        labels("image-list", tmp_path)
    plan = plan_build(BuildOptions("image-list", tmp_path, "train", "", unlabelled=True))
    assert plan.classes == () and plan.num_images == 2


@pytest.mark.parametrize("values", [["ant", None], [1.0, float("nan")], [1, None], ["a", ""], [None, None]])
def test_an_empty_label_in_a_table_of_images_is_refused(values: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [ONE, TWO], "label": values}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"row [01] of .*train\.parquet has no label .*--unlabelled"):
        labels("parquet", tmp_path)


@pytest.mark.parametrize("column", [*COLUMNS, "Label", "CLASS"])
def test_columns_of_the_usual_names_are_labels(column: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [ONE, TWO], column: [3, 1]}), tmp_path / "train.parquet")
    assert labels("parquet", tmp_path) == [3, 1]
    write_list(tmp_path / "list", "csv", column, ["bee", "ant"])
    assert labels("image-list", tmp_path / "list") == [1, 0]


def test_a_table_of_images_without_labels_is_unlabelled_and_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [ONE, TWO], "species": [3, 1]}), tmp_path / "train.parquet")
    assert labels("parquet", tmp_path) == [None, None]
    assert "no label column among 'species'" in (said := notes("parquet", tmp_path)) and "building unlabelled" in said
    assert "unlabelled" not in notes("parquet", tmp_path, label_column="species")
    with pytest.raises(SourceError, match=r"has no column 'kind', which --label-column names; it has 'species'"):
        notes("parquet", tmp_path, label_column="kind")


def test_a_list_without_a_label_column_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_list(tmp_path, "csv", "species", ["bee", "ant"])
    with pytest.raises(SourceError, match=r"no column 'label'; .*it has path, species; .*--label-column.*--unlabelled"):
        labels("image-list", tmp_path)
    assert plan_build(BuildOptions("image-list", tmp_path, "train", "", label_column="species")).classes == (
        "ant",
        "bee",
    )


def test_of_two_usual_columns_the_other_is_named(tmp_path: Path) -> None:
    columns = {"image": [ONE, TWO], "category": [5, 6], "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    assert labels("parquet", tmp_path) == [0, 1]
    assert "column 'label', not 'category'" in notes("parquet", tmp_path)


def test_lists_of_labels_in_a_table_are_many_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [ONE, TWO], "labels": [[2, 0, 2], []]}), tmp_path / "train.parquet")
    assert labels("parquet", tmp_path) == [(0, 2), ()]
    pq.write_table(
        pa.table(
            {"image": [ONE, TWO], "labels": [[], []]},
        ),
        tmp_path / "train.parquet",
    )
    with pytest.raises(SourceError, match=r"no label of column 'labels' .* names a class"):
        labels("parquet", tmp_path)


def test_names_in_a_table_of_images_are_classes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [ONE, TWO], "label": ["dog", "cat"]}), tmp_path / "train.parquet")
    assert found("parquet", tmp_path, "train") == sorted([(("dog",), ONE), (("cat",), TWO)])


@pytest.mark.parametrize("dataset", ["image-folder", "webdataset", "mnist"])
def test_a_label_column_is_for_tables(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--label-column is for tables"):
        plan_build(BuildOptions(dataset, tmp_path, "train", "", label_column="x"))
