"""Transfer sets of image files: each in miniature, in the layout of its own download."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.store import Store
from support.miniature import Miniature, found
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify
from tools.shard_builder.readers import DATASETS, SourceError


def dtd(mini: Miniature) -> None:
    for split in ("train", "val", "test"):
        paths = [f"banded/banded_{split}.jpg", f"dotted/dotted_{split}.jpg"]
        for path in paths:
            mini.image(f"dtd/images/{path}", split, path.split("/")[0])
        mini.text(f"dtd/labels/{split}1.txt", *paths)
        mini.text(f"dtd/labels/{split}2.txt")  # another partition


def country211(mini: Miniature) -> None:
    for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        for code in ("AD", "ZW"):
            mini.image(f"country211/{folder}/{code}/1.jpg", split, code)


def rendered_sst2(mini: Miniature) -> None:
    for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        for name in ("negative", "positive"):
            mini.image(f"rendered-sst2/{folder}/{name}/1.png", split, name, file_format="PNG")


def food_101(mini: Miniature) -> None:
    mini.text("food-101/meta/classes.txt", "apple_pie", "waffles")
    for split in ("train", "test"):
        mini.text(f"food-101/meta/{split}.txt", f"waffles/1{split}", f"apple_pie/2{split}")
        mini.image(f"food-101/images/waffles/1{split}.jpg", split, "waffles")
        mini.image(f"food-101/images/apple_pie/2{split}.jpg", split, "apple_pie")


def fgvc_aircraft(mini: Miniature) -> None:
    data = "fgvc-aircraft-2013b/data"
    mini.text(f"{data}/variants.txt", "707-320", "Hawk T1")
    for number, split in enumerate(("train", "val", "test")):
        mini.text(f"{data}/images_variant_{split}.txt", f"10{number}0 Hawk T1", f"20{number}0 707-320")
        mini.image(f"{data}/images/10{number}0.jpg", split, "Hawk T1")
        mini.image(f"{data}/images/20{number}0.jpg", split, "707-320")


def oxford_pets(mini: Miniature) -> None:
    for file, split in (("trainval", "train"), ("test", "test")):
        names = [f"Abyssinian_{split}", f"american_bulldog_{split}"]
        mini.text(f"annotations/{file}.txt", f"{names[0]} 1 1 1", f"{names[1]} 2 2 1")
        mini.image(f"images/{names[0]}.jpg", split, "Abyssinian")
        mini.image(f"images/{names[1]}.jpg", split, "american_bulldog")
    mini.file("images/Abyssinian_100.mat", b"not an image, and in the real folder")


def oxford_flowers(mini: Miniature) -> None:
    splits = {"train": ("trnid", [3, 1]), "val": ("valid", [2, 6]), "test": ("tstid", [5, 4])}
    labels = [1, 2, 102, 2, 1, 77]
    names = ("pink primrose", "hard-leaved pocket orchid", "blackberry lily", "passion flower")
    by_label = dict(zip((1, 2, 102, 77), names, strict=True))
    savemat(mini.root / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    savemat(mini.root / "setid.mat", {key: np.array([ids], dtype=np.uint16) for key, ids in splits.values()})
    for split, (_, ids) in splits.items():
        for number in ids:
            mini.image(f"jpg/image_{number:05d}.jpg", split, by_label[labels[number - 1]])


def stanford_cars(mini: Miniature) -> None:
    names = ["AM General Hummer SUV 2000", "smart fortwo Convertible 2012"]
    mini.text("devkit/README.txt")
    cells = np.array([names], dtype=object)
    savemat(mini.root / "devkit/cars_meta.mat", {"class_names": cells})
    box = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O")]
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(1, 2, 3, 4, 2, "00001.jpg"), (1, 2, 3, 4, 1, "00002.jpg")]
        annotations = np.array([rows], dtype=[*box, ("class", "O"), ("fname", "O")])
        savemat(mini.root / file, {"annotations": annotations})
        mini.image(f"cars_{split}/00001.jpg", split, names[1])
        mini.image(f"cars_{split}/00002.jpg", split, names[0])


def sun397(mini: Miniature) -> None:
    mini.text("Partitions/ClassName.txt", "/a/abbey", "/c/church/outdoor")
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        mini.text(f"Partitions/{file}", f"/c/church/outdoor/sun_{split}.jpg", f"/a/abbey/sun_{split}.jpg")
        mini.image(f"SUN397/c/church/outdoor/sun_{split}.jpg", split, "/c/church/outdoor")
        mini.image(f"SUN397/a/abbey/sun_{split}.jpg", split, "/a/abbey")


def ucf101(mini: Miniature) -> None:
    mini.text("ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup", "2 YoYo")
    for group, split in enumerate(("train", "test")):
        videos = [f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{group}_c01", f"YoYo/v_YoYo_g0{group}_c01"]
        lines = (f"{video}.avi{f' {i}' if split == 'train' else ''}" for i, video in enumerate(videos, 1))
        mini.text(f"ucfTrainTestlist/{split}list01.txt", *lines)
        mini.image(f"UCF-101-midframes/Apply_Eye_Makeup/{videos[0].split('/')[1]}.jpg", split, "ApplyEyeMakeup")
        mini.image(f"UCF-101-midframes/{videos[1]}.jpg", split, "YoYo")


def hateful_memes(mini: Miniature) -> None:
    for file, split in (("train", "train"), ("dev", "test"), ("test", "")):
        rows = [{"id": i, "img": f"img/{file}{i}.png", "label": i, "text": "it's their character"} for i in range(2)]
        mini.text(f"data/{file}.jsonl", *map(json.dumps, rows))
        for i, name in enumerate(("not hateful", "hateful")):
            mini.image(f"data/img/{file}{i}.png", split, name, file_format="PNG")


def voc_2007(mini: Miniature) -> None:
    root = "VOCdevkit/VOC2007"
    scenes = {"train": ("000001", [("dog", 0), ("person", 0), ("dog", 0), ("car", 1)]), "val": ("000002", [("cat", 0)])}
    scenes["test"] = ("000003", [("tvmonitor", 1)])
    for split, (number, objects) in scenes.items():
        items = "".join(
            f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
            "<part><name>head</name></part></object>"
            for name, difficult in objects
        )
        size = "<size><width>8</width><height>9</height><depth>3</depth></size>"
        mini.text(f"{root}/Annotations/{number}.xml", f"<annotation>{size}{items}</annotation>")
        mini.text(f"{root}/ImageSets/Main/{split}.txt", number)
        mini.text(f"{root}/ImageSets/Main/dog_{split}.txt", f"{number}  1")
        names = sorted({name for name, difficult in objects if not difficult})
        mini.image(f"{root}/JPEGImages/{number}.jpg", split, *names)


FILE_SETS: dict[str, Callable[[Miniature], None]] = {
    "dtd": dtd,
    "country211": country211,
    "rendered-sst2": rendered_sst2,
    "food-101": food_101,
    "fgvc-aircraft": fgvc_aircraft,
    "oxford-iiit-pets": oxford_pets,
    "oxford-flowers-102": oxford_flowers,
    "stanford-cars": stanford_cars,
    "sun397": sun397,
    "ucf101": ucf101,
    "hateful-memes": hateful_memes,
    "voc-2007": voc_2007,
}


@pytest.mark.parametrize("dataset", FILE_SETS)
def test_finds_every_image_with_its_classes(dataset: str, tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    FILE_SETS[dataset](mini)
    assert mini.expected.keys() == DATASETS[dataset].num_images.keys()
    for split, expected in mini.expected.items():
        assert found(dataset, tmp_path, split) == expected


@pytest.mark.parametrize("dataset", sorted(FILE_SETS.keys() - {"country211", "rendered-sst2"}))
def test_a_listed_image_that_is_missing_is_named(dataset: str, tmp_path: Path) -> None:
    FILE_SETS[dataset](Miniature(tmp_path))
    for image in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png")]:
        image.unlink()
    with pytest.raises(SourceError, match=rf"expected an image at {tmp_path}/.*\.(jpg|png): No such file"):
        found(dataset, tmp_path, "train")


@pytest.mark.parametrize("dataset", sorted(FILE_SETS.keys() - {"country211", "rendered-sst2"}))
def test_a_garbled_annotation_is_named(dataset: str, tmp_path: Path) -> None:
    FILE_SETS[dataset](Miniature(tmp_path))
    for file in tmp_path.rglob("*"):
        if file.suffix in (".txt", ".mat", ".xml", ".jsonl"):
            file.write_bytes(b"\xff\x00\xfe")
    with pytest.raises(SourceError, match=rf"^{tmp_path}/.* is not a"):
        found(dataset, tmp_path, "train")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("dataset", sorted(FILE_SETS.keys() - {"country211", "rendered-sst2"}))
@pytest.mark.parametrize("suffixes", [(".txt", ".mat", ".xml", ".jsonl"), (".jpg", ".png")], ids=["lists", "images"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    dataset: str, suffixes: tuple[str, ...], tmp_path: Path
) -> None:
    FILE_SETS[dataset](Miniature(tmp_path))
    for file in [file for file in tmp_path.rglob("*") if file.suffix in suffixes]:
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(SourceError, match=r"not a file|No such file"):
        found(dataset, tmp_path, "train")


def test_ucf101_without_the_frames_of_a_class(tmp_path: Path) -> None:
    ucf101(Miniature(tmp_path))
    (tmp_path / "UCF-101-midframes/YoYo").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"expected the folder .*midframes/YoYo with the middle frames"):
        found("ucf101", tmp_path, "test")


def test_gtsrb_becomes_png_without_loss(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    for label, name in ((0, "00000"), (42, "00042")):
        mini.image(f"GTSRB/Training/{name}/00000_00000.ppm", "train", name, file_format="PPM")
        mini.text(f"GTSRB/Training/{name}/GT-{name}.csv", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId")
        mini.image(f"GTSRB/Online-Test-sort/{name}/00007.ppm", "val", name, file_format="PPM")
        mini.image(f"GTSRB/Online-Test-sort/Images/0000{label}.ppm", "", name, file_format="PPM")
        mini.image(f"GTSRB/Final_Test/Images/0000{label}.ppm", "test", name, file_format="PPM")
    rows = (f"0000{label}.ppm;53;54;6;5;48;49;{label}" for label in (0, 42))
    mini.text("GT-final_test.csv", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows)
    for split, expected in mini.expected.items():
        assert found("gtsrb", tmp_path, split, as_pixels=True) == expected
    mini.text("GT-final_test.csv", "Filename;Width")
    with pytest.raises(SourceError, match=r"GT-final_test\.csv has no column 'ClassId'; expected Filename, ClassId"):
        found("gtsrb", tmp_path, "test")


@pytest.mark.parametrize(
    ("dataset", "folder", "classes", "sizes"),
    [
        ("caltech-101", "101_ObjectCategories", ["BACKGROUND_Google", "ant"], {"train": 30, "test": 4}),
        ("eurosat", "2750", ["AnnualCrop", "River"], {"train": 500, "val": 500, "test": 500}),
        ("resisc45", "NWPU-RESISC45", ["airplane", "beach"], {"train": 70, "val": 70, "test": 560}),
    ],
)
def test_drawn_splits_share_no_image(
    dataset: str, folder: str, classes: list[str], sizes: dict[str, int], tmp_path: Path
) -> None:
    num_images = sum(sizes.values()) + (20 if dataset == "eurosat" else 0)
    for name in classes:
        (tmp_path / folder / name).mkdir(parents=True)
        for number in range(num_images):
            (tmp_path / folder / name / f"{name}_{number}.jpg").touch()
    taken: set[str] = set()
    for split, size in sizes.items():
        records = list(DATASETS[dataset].open(tmp_path, split, allow_subset=True).records())
        assert [sum(record.label == label for record in records) for label in (0, 1)] == [size, size]
        paths = {record.path for record in records}
        assert not taken & paths
        assert {record.path for record in records} == paths
        taken |= paths


def test_lists_that_count_from_1_have_no_item_0(tmp_path: Path) -> None:
    mini = Miniature(tmp_path / "flowers")
    mini.root.mkdir()
    oxford_flowers(mini)
    savemat(mini.root / "setid.mat", {"trnid": np.array([[0, 1]], dtype=np.uint16)})
    with pytest.raises(SourceError, match=r"imagelabels\.mat is not .*: there is no item 0"):
        found("oxford-flowers-102", mini.root, "train")


def test_hateful_memes_takes_the_later_edition_too(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    mini.text("dev_seen.jsonl", json.dumps({"id": 1, "img": "img/1.png", "label": 1, "text": ""}))
    mini.image("img/1.png", "test", "hateful", file_format="PNG")
    assert found("hateful-memes", tmp_path, "test") == mini.expected["test"]
    with pytest.raises(SourceError, match=r"expected a text file at .*/train\.jsonl"):
        found("hateful-memes", tmp_path, "train")


@pytest.mark.parametrize(("split", "labels"), [("train", [11, 14]), ("test", [])])
def test_multi_label_shards_are_whole_and_stock_webdataset_reads_them(
    split: str, labels: list[int], tmp_path: Path
) -> None:
    mini = Miniature(tmp_path / "voc")
    voc_2007(mini)
    dest = tmp_path / "shards"
    build(BuildOptions("voc-2007", mini.root, split, str(dest), allow_subset=True))
    assert verify(Store(dest)).problems == ()
    assert found("webdataset", dest, split) == mini.expected[split]
    (tar,) = dest.glob("*.tar")
    with tar.open("rb") as stream:
        (sample,) = group_by_keys(tar_file_expander([{"url": str(tar), "stream": stream}]))
    assert json.loads(sample["json"]) == {"labels": labels} and sample["jpg"] == mini.expected[split][0][1]
