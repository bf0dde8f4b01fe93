"""Classes: which labels are numbers and which are names, Unicode, and the same classes for train and val."""

import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run
from support.miniature import Miniature, found, write_tar
from support.shards import jpegs
from tools.shard_builder.build.run import BuildOptions, build, plan_build
from tools.shard_builder.readers import DATASETS, SourceError
from tools.shard_builder.readers.labels import Classes, plain

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def classes_and_labels(values: list[Any]) -> tuple[tuple[str, ...], list[Any]]:
    texts = [plain(value, "the table") for value in values]
    classes = Classes(texts, "the table")
    return classes.names, [classes.label(text) for text in texts]


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["2", "0"], ("0", "1", "2"), [2, 0]),
        (["9", "10"], tuple(map(str, range(11))), [9, 10]),
        ([2, 0.0, True], ("0", "1", "2"), [2, 0, 1]),
        (["2.0", "0"], ("0", "1", "2"), [2, 0]),  # what pandas makes of numbers where one is missing
        (["000", "001"], ("000", "001"), [0, 1]),
        (["10", "09"], ("09", "10"), [1, 0]),
        (["cat", "2"], ("2", "cat"), [1, 0]),
        (["1_0", "2"], ("1_0", "2"), [0, 1]),
        (["-", "NA"], ("-", "NA"), [0, 1]),
        (["²", "3"], ("3", "²"), [1, 0]),
        ([["1", "0"], [1, 1]], ("0", "1"), [(0, 1), (1,)]),
        ([["b", "a"], []], ("a", "b"), [(0, 1), ()]),
    ],
)
def test_numbers_and_names(values: list[Any], names: tuple[str, ...], labels: list[Any]) -> None:
    assert classes_and_labels(values) == (names, labels)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["1", "٣"], "holds the label '٣' where all labels are numbers"),
        (["٢", "٤"], "holds the label '٢' where all labels are numbers"),
        (["7", "007"], "holds the label '007' where all labels are numbers"),
        (["00", "001"], "holds the label '00' where all labels are numbers"),
        ([-1, 3], "holds the label '-1' where all labels are numbers; .* --unlabelled"),
        (["+1", "3"], r"holds the label '\+1'"),
        ([2.5, 1], r"holds the label '2\.5'"),
        (["1e3", "3"], "holds the label '1e3'"),
        ([10**12, 0], "holds the class number 1000000000000; they must be below 1,000,000"),
        (["9" * 5000, 0], "holds the class number 9{40}; they must be below 1,000,000"),
        ([1_000_000], "holds the class number 1000000; they must be"),
        ([b"cat"], "has a label that is neither a number nor a name"),
        ([{"id": 1}], "has a label that is neither a number nor a name"),
        ([[["a"]]], "has a label that is neither a number nor a name"),
    ],
)
def test_what_could_be_no_class_or_two_is_refused(values: list[Any], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        classes_and_labels(values)


@given(st.lists(st.text(max_size=6) | st.integers() | st.floats() | st.none() | st.booleans(), min_size=1, max_size=6))
def test_every_label_has_the_class_of_its_own_text_or_is_refused(values: list[Any]) -> None:
    try:
        names, labels = classes_and_labels(values)
    except SourceError:
        return
    assert len(set(names)) == len(names) and all(0 <= label < len(names) for label in labels)
    assert [names[label] for label in labels] == [plain(value, "") for value in values]


def folder(root: Path, *classes: str) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").write_bytes(jpegs(1, number)[0])
    return root


def labelled(source: Path, **options: Any) -> dict[str, str]:
    """Class name by path."""
    plan = plan_build(BuildOptions("image-folder", source, "val", "", **options))
    return {r.path: plan.classes[r.label] for shard in plan.shards for r in shard.records if isinstance(r.label, int)}


def test_the_classes_of_another_data_set_are_taken_by_name(run: Run, tmp_path: Path) -> None:
    folder(tmp_path / "in/train", "ant", "bee", "cat")
    folder(tmp_path / "in/val", "bee")
    args = ["build", "--dataset", "image-folder", "--source", tmp_path / "in", "--num-workers", 1]
    run(*args, "--split", "train", "--dest", tmp_path / "train")
    run(*args, "--split", "val", "--dest", tmp_path / "val", "--classes-of", tmp_path / "train")
    manifest = read_manifest(Store(tmp_path / "val"))
    assert manifest.classes == ("ant", "bee", "cat")
    assert found("webdataset", tmp_path / "val", "val") == [(("bee",), jpegs(1)[0])]
    (tmp_path / "classes.txt").write_text("zebra\nbee\nant\n")
    options: dict[str, Any] = {"source": tmp_path / "in/val", "classes_of": str(tmp_path / "classes.txt")}
    plan = plan_build(BuildOptions("image-folder", split="val", dest="", **options))
    assert plan.classes == ("zebra", "bee", "ant") and plan.shards[0].records[0].label == 1


def test_many_labels_per_image_are_taken_by_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    write_tar(tmp_path / "train-0.tar", {"x.json": b'{"labels": [0, 2]}', "x.jpg": jpegs(1)[0]})
    (tmp_path / "other.txt").write_text("c\nb\na\nz\n")
    plan = plan_build(BuildOptions("webdataset", tmp_path, "train", "", classes_of=str(tmp_path / "other.txt")))
    assert plan.shards[0].records[0].label == (0, 2) and plan.classes == ("c", "b", "a", "z")


def test_a_class_that_the_list_has_not_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "in/val", "bee", "wasp")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(SourceError, match="has the class 'wasp', which is not in the class list"):
        labelled(tmp_path / "in", classes_of=str(tmp_path / "classes.txt"))
    with pytest.raises(UserError, match="holds no manifest"):
        labelled(tmp_path / "in", classes_of=str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="--unlabelled takes no labels"):
        labelled(tmp_path / "in", classes_of=str(tmp_path / "classes.txt"), unlabelled=True)
    pq.write_table(pa.table({"image": jpegs(1)}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match="has no labels, so there is nothing to number"):
        plan_build(BuildOptions("parquet", tmp_path, "train", "", classes_of=str(tmp_path / "classes.txt")))


def test_names_from_different_systems_are_made_equal_on_request(tmp_path: Path) -> None:
    folder(tmp_path / "linux/train", COMPOSED, "zebra", "cafz")
    folder(tmp_path / "mac/val", DECOMPOSED, "zebra", "cafz")
    build(BuildOptions("image-folder", tmp_path / "linux", "train", str(tmp_path / "train")))
    train = str(tmp_path / "train")
    with pytest.raises(SourceError, match=r"same in another Unicode form; pass --nfc") as caught:
        labelled(tmp_path / "mac", classes_of=train)
    assert r"'caf\xe9'" in str(caught.value) and r"'cafe\u0301'" in str(caught.value)
    assert labelled(tmp_path / "mac", classes_of=train, nfc=True)[f"{DECOMPOSED}/1.jpg"] == COMPOSED
    plan = plan_build(BuildOptions("image-folder", tmp_path / "mac", "val", "", nfc=True))
    assert plan.classes == read_manifest(Store(train)).classes == tuple(sorted([COMPOSED, "zebra", "cafz"]))
    assert labelled(tmp_path / "mac", nfc=True)[f"{DECOMPOSED}/1.jpg"] == COMPOSED
    assert unicodedata.is_normalized("NFC", COMPOSED) and not unicodedata.is_normalized("NFC", DECOMPOSED)


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "val", COMPOSED, DECOMPOSED)
    assert len(labelled(tmp_path)) == 2
    with pytest.raises(SourceError, match=f"two classes of {tmp_path} have the name '{COMPOSED}'"):
        labelled(tmp_path, nfc=True)


@pytest.mark.parametrize("name", ["a\nb", "\x7f", "\x85", "a\u2028b", "\udcff", "   "])
def test_names_that_are_no_clean_text_are_refused(name: str, tmp_path: Path) -> None:
    folder(tmp_path / "val", name)
    with pytest.raises(SourceError, match="is no clean text; rename it"):
        labelled(tmp_path)


@pytest.mark.parametrize("name", ["naïve café", "می‌خواهم", "👩‍👧", "a\u00a0b", "中文"])
def test_names_of_all_languages_are_taken(name: str, tmp_path: Path) -> None:
    folder(tmp_path / "val", name)
    assert labelled(tmp_path) == {f"{name}/1.jpg": name}


def test_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"1", "a.jpg": jpegs(1)[0]})
    (tmp_path / "classes.txt").write_text("ant\nbee\nant\n")
    with pytest.raises(SourceError, match=r"two classes of .* have the name 'ant'"):
        DATASETS["webdataset"].open(tmp_path, "train")


def test_the_labels_of_published_sets_are_checked_too(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    for label in (-1, 2):
        mini.text("train.jsonl", f'{{"img": "img/1.png", "label": {label}}}')
        mini.image("img/1.png", "train", file_format="PNG")
        with pytest.raises(SourceError, match=rf"img/1\.png has label {label}, but there are 2 classes"):
            found("hateful-memes", tmp_path, "train")
    for number in ("-1", "٢", "7"):
        mini.text("info/synsets.txt", "n1 a", "n2 b")
        mini.text("info/train_filelist_google.txt", f"a.jpg {number}")
        with pytest.raises(SourceError, match="has the class number"):
            found("webvision-v1", tmp_path, "train")
    mini.text("train_map.txt", "a.jpg\t-1")
    mini.file("train.zip", b"")
    with pytest.raises(SourceError, match=r"a\.jpg in .* has the label '-1'"):
        found("esvit-zip", tmp_path, "train")
