"""The catalogue: complete, consistent, checked against what was published, and in the documentation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.miniature import Miniature
from tools.shard_builder.readers import DATASETS, Record, SourceError
from tools.shard_builder.readers.base import Listing
from tools.shard_builder.readers.dataset import Dataset
from tools.shard_builder.readers.layout import class_names
from tools.shard_builder.readers.sources import RangeSource

PUBLISHED = [dataset for dataset in DATASETS.values() if dataset.num_images]
DOCS = Path(__file__).parents[4] / "docs/datasets.md"


def test_the_suites_are_complete() -> None:
    transfer = [dataset for dataset in DATASETS.values() if dataset.use == "transfer"]
    assert sum("elevater" in dataset.suites for dataset in transfer) == 20
    assert sum("clip-18" in dataset.suites for dataset in transfer) == 18
    assert all(
        dataset.suites and dataset.metric and {"train", "test"} <= set(dataset.num_images) for dataset in transfer
    )


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_every_row_is_whole_and_documented(dataset: Dataset) -> None:
    assert dataset.layout and (dataset.use == "format" or dataset.page.startswith("http"))
    names = class_names(dataset.name)
    assert names is None or len(set(names)) == dataset.num_classes
    assert f"`{dataset.name}`" in DOCS.read_text()
    assert all(f"{number:,}" in DOCS.read_text() for number in dataset.num_images.values())


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_a_folder_of_something_else_is_refused_with_what_was_expected(dataset: Dataset, tmp_path: Path) -> None:
    Miniature(tmp_path).text("holiday/readme.txt", "nothing to see")
    (tmp_path / "empty").mkdir()
    for split in dataset.num_images or ("train",):
        with pytest.raises(SourceError, match=rf"expected .*{tmp_path}/empty"):
            list(dataset.open(tmp_path / "empty", split, allow_subset=True).records())
        with pytest.raises(SourceError, match=rf"cannot read source {tmp_path}/nowhere"):
            dataset.open(tmp_path / "nowhere", split)


@pytest.mark.parametrize("dataset", PUBLISHED, ids=lambda dataset: dataset.name)
def test_an_unknown_split_is_refused_with_those_there_are(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"{dataset.name} has the splits train, .*not 'dev'"):
        dataset.open(tmp_path, "dev")


def three_images(num_images: int, classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    def records() -> Iterator[Record]:
        return (Record.of(f"{i}.jpg", 0, RangeSource("a.tar", 0, 1)) for i in range(num_images))

    return Dataset(
        "tiny", "transfer", lambda *_: Listing(classes, records), "a.tar", num_classes=2, num_images={"train": 3}
    )


def test_images_are_counted(tmp_path: Path) -> None:
    assert len(list(three_images(3).open(tmp_path, "train").records())) == 3
    assert len(list(three_images(2).open(tmp_path, "train", allow_subset=True).records())) == 2
    with pytest.raises(SourceError, match=r"2 train images of tiny, published are 3; complete it, or .*--allow-subset"):
        list(three_images(2).open(tmp_path, "train").records())
    with pytest.raises(SourceError, match="4 train images of tiny, published are 3: something else lies among them"):
        list(three_images(4).open(tmp_path, "train", allow_subset=True).records())


def test_classes_are_counted(tmp_path: Path) -> None:
    assert three_images(3, ("a",)).open(tmp_path, "train", allow_subset=True).classes == ("a",)
    with pytest.raises(SourceError, match=r"has 1 classes of tiny, published are 2; .*--allow-subset"):
        three_images(3, ("a",)).open(tmp_path, "train")
    with pytest.raises(SourceError, match=r"has 3 classes of tiny, published are 2: something else"):
        three_images(3, ("a", "b", "c")).open(tmp_path, "train", allow_subset=True)


def test_class_names_are_compared_where_folders_are_the_only_list(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    mini.image("train/n01440764/1.JPEG", "train", "n01440764")
    imagenet = DATASETS["imagenet-1k"]
    assert imagenet.open(tmp_path, "train", allow_subset=True).classes == ("n01440764",)
    with pytest.raises(SourceError, match=r"lacks the class 'n01443537' of imagenet-1k \(and 998 more\); complete it"):
        imagenet.open(tmp_path, "train")
    mini.image("train/tench/1.JPEG", "train", "tench")
    with pytest.raises(SourceError, match=r"has 'tench', which is no class of imagenet-1k"):
        imagenet.open(tmp_path, "train", allow_subset=True)
