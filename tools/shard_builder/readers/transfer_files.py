"""Layouts of the transfer data sets that come as image files with lists, tables or annotations.

Every function takes the folder of the unpacked download (or the folder inside it that the archive made), and a split
of the data set's row in `transfer_sets.py`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import (
    nth,
    read_csv,
    read_json_lines,
    read_lines,
    read_mat,
    read_pairs,
    read_voc_objects,
    reading,
)
from tools.shard_builder.readers.base import Listing, Reader, Record, SourceError
from tools.shard_builder.readers.layout import class_folders, class_names, draw, find, listed_files, named_files
from tools.shard_builder.readers.pixels import ConvertedSource
from tools.shard_builder.readers.sources import FileSource

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_NUM_GTSRB_CLASSES = 43


def caltech_101(source: Path, split: str) -> Reader:
    """30 training images per class, all others for test. Drawn by hash, because no split was published."""
    root = find(source, "101_ObjectCategories", "caltech-101")
    return draw(class_folders(root), {"train": slice(30), "test": slice(30, None)}[split])


def eurosat(source: Path, split: str) -> Reader:
    """500 images per class and split. Drawn by hash, because no split was published."""
    root = find(source, "AnnualCrop", "2750", "EuroSAT_RGB", "EuroSAT/2750").parent
    return draw(class_folders(root), {"train": slice(500), "val": slice(500, 1000), "test": slice(1000, 1500)}[split])


def resisc45(source: Path, split: str) -> Reader:
    """70, 70 and 560 images per class. Drawn by hash, because no split was published."""
    root = find(source, "airplane", "NWPU-RESISC45").parent
    return draw(class_folders(root), {"train": slice(70), "val": slice(70, 140), "test": slice(140, None)}[split])


def country211(source: Path, split: str) -> Reader:
    """Class folders below `train`, `valid` and `test`."""
    return class_folders(find(source, _with_valid(split), "country211"))


def rendered_sst2(source: Path, split: str) -> Reader:
    """Class folders below `train`, `valid` and `test`."""
    return class_folders(find(source, _with_valid(split), "rendered-sst2"))


def _with_valid(split: str) -> str:
    return "valid" if split == "val" else split


def dtd(source: Path, split: str) -> Reader:
    """The first of the ten published splits."""
    table = find(source, f"labels/{split}1.txt", "dtd")
    return named_files(table.parents[1] / "images", ((path, path.split("/")[0]) for path in read_lines(table)))


def food_101(source: Path, split: str) -> Reader:
    """Lists in `meta/`, whose paths have no suffix."""
    meta = find(source, f"meta/{split}.txt", "food-101").parent
    rows = ((f"{path}.jpg", path.split("/")[0]) for path in read_lines(meta / f"{split}.txt"))
    return named_files(meta.parent / "images", rows, read_lines(meta / "classes.txt"))


def fgvc_aircraft(source: Path, split: str) -> Reader:
    """The 100 variants of aircraft."""
    table = find(source, f"data/images_variant_{split}.txt", "fgvc-aircraft-2013b")
    rows = ((f"{number}.jpg", variant) for number, variant in read_pairs(table))
    return named_files(table.parent / "images", rows, read_lines(table.parent / "variants.txt"))


def oxford_pets(source: Path, split: str) -> Reader:
    """The training split is `trainval`; the class is the file name without its number."""
    table = find(source, f"annotations/{'trainval' if split == 'train' else split}.txt", "oxford-iiit-pet")
    names = (name for name, _ in read_pairs(table) if not name.startswith("#"))
    rows = ((f"{name}.jpg", name.rpartition("_")[0]) for name in names)
    return named_files(table.parents[1] / "images", rows)


def oxford_flowers(source: Path, split: str) -> Reader:
    """Labels and splits in two MATLAB files; the class names come from the publication."""
    labels = find(source, "imagelabels.mat", "102flowers", "flowers-102")
    numbers = read_mat(labels, "labels")
    ids = read_mat(labels.with_name("setid.mat"), {"train": "trnid", "val": "valid", "test": "tstid"}[split])
    with reading(labels, "the 8,189 labels of the flowers"):
        rows: list[tuple[str, Label]] = [(f"image_{i:05d}.jpg", int(nth(numbers, i)) - 1) for i in ids.tolist()]
    names = class_names("oxford-flowers-102")
    assert names is not None
    return Listing(names, partial(listed_files, labels.parent / "jpg", rows))


def stanford_cars(source: Path, split: str) -> Reader:
    """Annotations in MATLAB files; the test set has a separate file."""
    devkit = find(source, "devkit/cars_meta.mat", "stanford_cars").parent
    name = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}[split]
    file = find(devkit, name, "..")
    annotations = read_mat(file, "annotations")
    names = read_mat(devkit / "cars_meta.mat", "class_names")
    with reading(file, "a list of file names and classes"):
        rows: list[tuple[str, Label]] = [(str(row["fname"]), int(row["class"]) - 1) for row in annotations]
    return Listing(tuple(map(str, names)), partial(listed_files, devkit.parent / f"cars_{split}", rows))


def sun397(source: Path, split: str) -> Reader:
    """The first of the ten published partitions."""
    folders = ("Partitions", "SUN397", "SUN397/Partitions")
    table = find(source, {"train": "Training_01.txt", "test": "Testing_01.txt"}[split], *folders)
    classes = read_lines(find(source, "ClassName.txt", *folders))
    root = find(source, "a/abbey", "SUN397").parents[1]
    return named_files(root, ((path.strip("/"), path.rpartition("/")[0]) for path in read_lines(table)), classes)


def ucf101(source: Path, split: str) -> Reader:
    """The middle frames of the videos, split 1. Class folders may be written with or without underscores."""
    lists = find(source, f"{split}list01.txt", "ucfTrainTestlist").parent
    frames = find(source, "UCF-101-midframes")
    folders = {path.name.replace("_", ""): path.name for path in frames.iterdir() if path.is_dir()}

    def rows() -> Iterator[tuple[str, str]]:
        for video in (line.split()[0] for line in read_lines(lists / f"{split}list01.txt")):
            name, _, file = video.partition("/")
            if name not in folders:
                raise SourceError(f"expected the folder {frames / name} with the middle frames of that class")
            yield f"{folders[name]}/{file.removesuffix('.avi')}.jpg", name

    return named_files(frames, rows(), [name for _, name in read_pairs(lists / "classInd.txt")])


def gtsrb(source: Path, split: str) -> Reader:
    """Train and val: training and test set of the online competition. Test: that of the final one. PPM becomes PNG."""
    root = find(source, {"train": "Training", "val": "Online-Test-sort", "test": "Final_Test"}[split], "GTSRB")
    classes = tuple(f"{number:05d}" for number in range(_NUM_GTSRB_CLASSES))
    if split == "test":
        table = find(source, "GT-final_test.csv", "GTSRB", "GTSRB/Final_Test/Images")
        root = root / "Images"
        rows = ((name, int(number)) for name, number in read_csv(table, "Filename", "ClassId", delimiter=";"))
    else:
        rows = ((f"{c}/{path.name}", i) for i, c in enumerate(classes) for path in sorted((root / c).glob("*.ppm")))
    return Listing(classes, partial(_converted, root, list(rows)))


def _converted(root: Path, rows: list[tuple[str, int]]) -> Iterator[Record]:
    return (Record.of(path, label, ConvertedSource(FileSource.at(root, path))) for path, label in rows)


def hateful_memes(source: Path, split: str) -> Reader:
    """The test split is `dev.jsonl` (later edition: `dev_seen.jsonl`), because the true test labels were secret."""
    names = {"train": ("train.jsonl",), "test": ("dev.jsonl", "dev_seen.jsonl")}[split]
    tables = (folder / name for name in names for folder in (source, source / "data", source / "hateful_memes"))
    table = next((table for table in tables if table.is_file()), source / names[0])
    with reading(table, "a file of one JSON object with img and label per line"):
        rows: list[tuple[str, Label]] = [(str(row["img"]), int(row["label"])) for row in read_json_lines(table)]
    return Listing(("not hateful", "hateful"), partial(listed_files, table.parent, rows))


def voc_2007(source: Path, split: str) -> Reader:
    """Multi-label: an image has the classes of its objects that are not marked as difficult, as in the challenge."""
    root = find(source, f"ImageSets/Main/{split}.txt", "VOC2007", "VOCdevkit/VOC2007").parents[2]
    positions = {name: label for label, name in enumerate(VOC_CLASSES)}

    def rows() -> Iterator[tuple[str, Label]]:
        for name in read_lines(root / f"ImageSets/Main/{split}.txt"):
            path = root / f"Annotations/{name}.xml"
            with reading(path, "a Pascal VOC annotation"):
                labels = {positions[kind] for kind, is_difficult in read_voc_objects(path) if not is_difficult}
            yield f"JPEGImages/{name}.jpg", tuple(sorted(labels))

    return Listing(VOC_CLASSES, lambda: listed_files(root, rows()))
