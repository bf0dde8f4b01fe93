"""ImageNet, WebVision and Open Images in miniature, in every layout in which they are handed out."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from support.miniature import Miniature, found, write_tar
from support.shards import jpegs
from tools.shard_builder.readers import DATASETS, SourceError
from tools.shard_builder.readers.sources import RangeSource

SOLE, TENCH, HEN = "n01440764", "n01443537", "n01514859"  # classes of ImageNet-1K, in order


def train_tar(path: Path, mini: Miniature, split: str = "train") -> None:
    """A tar of one tar a synset, in no order, with a folder entry as some repackings have it."""
    inner = {}
    for number, wnid in enumerate((HEN, SOLE)):
        files = {f"{wnid}_{i}.JPEG": data for i, data in enumerate(jpegs(2, 10 * number))}
        inner[f"{wnid}.tar"] = write_tar(mini.root / "scratch.tar", files)
        for data in files.values():
            mini.expect(split, (wnid,), data)
    (mini.root / "scratch.tar").unlink()
    write_tar(path, inner)


def devkit(mini: Miniature) -> None:
    """`meta.mat` numbers leaves first, and not in the order of their names; inner nodes of the hierarchy follow."""
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [
        (1, HEN, "hen", "female fowl", 0, [], 0, 1300),
        (2, SOLE, "tench", "a fish", 0, [], 0, 1300),
        (3, TENCH, "goldfish", "a fish", 0, [], 0, 1300),
        (1001, "n00001740", "entity", "all of it", 3, [1, 2, 3], 19, 0),
    ]
    synsets = np.array([[row] for row in rows], dtype=[(name, "O") for name in fields])
    mini.text("ILSVRC2012_devkit_t12/readme.txt")
    (mini.root / "ILSVRC2012_devkit_t12/data").mkdir()
    savemat(mini.root / "ILSVRC2012_devkit_t12/data/meta.mat", {"synsets": synsets})
    mini.text("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "2", "1", "3")


VAL_NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]
VAL_CLASSES = [SOLE, HEN, TENCH]


def test_imagenet_as_class_folders(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    for split in ("train", "val"):
        mini.image(f"{split}/{TENCH}/a.JPEG", split, TENCH)
        mini.image(f"{split}/{SOLE}/b.JPEG", split, SOLE)
    for split in ("train", "val"):
        assert found("imagenet-1k", tmp_path, split) == mini.expected[split]


def test_imagenet_as_the_tar_of_tars(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    train_tar(tmp_path / "ILSVRC2012_img_train.tar", mini)
    assert found("imagenet-1k", tmp_path, "train") == mini.expected["train"]
    record = next(DATASETS["imagenet-1k"].open(tmp_path, "train", allow_subset=True).records())
    assert isinstance(record.source, RangeSource)
    assert record.path == f"{HEN}/{HEN}_0.JPEG"


def test_imagenet_validation_as_a_tar_with_the_devkit(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    devkit(mini)
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", dict(zip(reversed(VAL_NAMES), jpegs(3), strict=True)))
    for wnid, data in zip(reversed(VAL_CLASSES), jpegs(3), strict=True):
        mini.expect("val", (wnid,), data)
    assert found("imagenet-1k", tmp_path, "val") == mini.expected["val"]


@pytest.mark.parametrize("kaggle", [False, True])
def test_imagenet_validation_as_a_flat_folder(kaggle: bool, tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    if kaggle:
        rows = (f"{name.removesuffix('.JPEG')},{wnid} 85 1 499 272 {wnid} 1 2 3 4"
                for name, wnid in zip(VAL_NAMES, VAL_CLASSES, strict=True))  # fmt: skip
        mini.text("LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    else:
        devkit(mini)
    for name, wnid in zip(VAL_NAMES, VAL_CLASSES, strict=True):
        mini.image(f"{'ILSVRC/Data/CLS-LOC/' if kaggle else ''}val/{name}", "val", wnid)
    assert found("imagenet-1k", tmp_path, "val") == mini.expected["val"]


def test_imagenet_has_the_same_keys_in_every_layout(tmp_path: Path) -> None:
    folders, tars, flat = (Miniature(tmp_path / name) for name in ("folders", "tars", "flat"))
    train_tar(tars.root / "ILSVRC2012_img_train.tar", tars)
    for wnid in (SOLE, HEN):
        for number in (0, 1):
            folders.image(f"train/{wnid}/{wnid}_{number}.JPEG", "train", wnid)
    images = dict(zip(VAL_NAMES, jpegs(3), strict=True))
    write_tar(tars.root / "ILSVRC2012_img_val.tar", images)
    devkit(tars)
    devkit(flat)
    for (name, image), wnid in zip(images.items(), VAL_CLASSES, strict=True):
        folders.file(f"val/{wnid}/{name}", image)
        flat.file(f"val/{name}", image)
    for split, minis in (("train", (folders, tars)), ("val", (folders, tars, flat))):
        readers = [DATASETS["imagenet-1k"].open(mini.root, split, allow_subset=True) for mini in minis]
        listings = [
            sorted((record.key, record.path, record.label) for record in reader.records()) for reader in readers
        ]
        assert all(listing == listings[0] for listing in listings)
        assert len({reader.classes for reader in readers}) == 1


def test_imagenet_says_what_it_misses(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected .*/ILSVRC2012_img_train\.tar or .*/train/WNID/\*\.JPEG"):
        found("imagenet-1k", tmp_path, "train")
    with pytest.raises(SourceError, match=r"expected the images in .*/val/WNID/\*\.JPEG, or, .* folder .*devkit_t12"):
        found("imagenet-1k", tmp_path, "val")
    devkit(Miniature(tmp_path))
    with pytest.raises(SourceError, match=r"expected .*/ILSVRC2012_img_val\.tar or .*/val/\*\.JPEG"):
        found("imagenet-1k", tmp_path, "val")
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000009.JPEG": b"x"})
    with pytest.raises(SourceError, match=r"holds ILSVRC2012_val_00000009\.JPEG, which the ground truth does not list"):
        found("imagenet-1k", tmp_path, "val")


@pytest.mark.parametrize("content", [b"", b"no tar", "cut", "gzip"])
def test_imagenet_refuses_what_is_no_whole_tar(content: bytes | str, tmp_path: Path) -> None:
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    train_tar(tar, Miniature(tmp_path))
    if content == "gzip":
        write_tar(tar, {"n01440764.tar": b""}, "w:gz")
    else:
        tar.write_bytes(tar.read_bytes()[:3000] if isinstance(content, str) else content)
    with pytest.raises(SourceError, match=r"ILSVRC2012_img_train\.tar"):
        found("imagenet-1k", tmp_path, "train")


@pytest.mark.parametrize("layout", ["folders", "split", "synset tars", "one tar"])
def test_imagenet_22k(layout: str, tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    if layout == "one tar":
        train_tar(tmp_path / "fall11_whole.tar", mini)
    elif layout == "synset tars":
        for number, wnid in enumerate((SOLE, HEN)):
            files = {f"{wnid}_{i}.JPEG": data for i, data in enumerate(jpegs(2, 10 * number))}
            write_tar(tmp_path / f"{wnid}.tar", files)
            for data in files.values():
                mini.expect("train", (wnid,), data)
    else:
        for wnid in (SOLE, HEN):
            mini.image(f"{'train/' if layout == 'split' else ''}{wnid}/{wnid}_7.JPEG", "train", wnid)
    assert found("imagenet-22k", tmp_path, "train") == mini.expected["train"]


def test_webvision(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    mini.text("info/synsets.txt", f"{SOLE} tench, Tinca tinca", f"{TENCH} goldfish, Carassius auratus")
    mini.text("info/train_filelist_google.txt", "google/q0001/-1.jpg 0", "google/q0003/-2.jpg 1")
    mini.text("info/train_filelist_flickr.txt", "flickr/q0001/3.jpg 0")
    mini.text("info/val_filelist.txt", "val000001.jpg 1")
    mini.image("google/q0001/-1.jpg", "train", SOLE)
    mini.image("google/q0003/-2.jpg", "train", TENCH)
    mini.image("flickr/q0001/3.jpg", "train", SOLE)
    mini.image("val_images_256/val000001.jpg", "val", TENCH)
    for split, expected in mini.expected.items():
        assert found("webvision-v1", tmp_path, split) == expected
    (tmp_path / "val_images_256").rename(tmp_path / "val_images")
    assert found("webvision-v1", tmp_path, "val") == mini.expected["val"]
    mini.text("info/val_filelist.txt", "val000001.jpg 2")
    with pytest.raises(SourceError, match=r"val_filelist\.txt is not a list of images and class numbers"):
        found("webvision-v1", tmp_path, "val")


def test_open_images(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    mini.image("train_0/000002b66c9c498e.jpg", "train")
    mini.image("train_f/f00002b66c9c498e.jpg", "train")
    mini.image("validation/0001eeaf4aed83f9.jpg", "validation")
    for split, expected in mini.expected.items():
        assert found("openimages-v4", tmp_path, split) == expected
    with pytest.raises(SourceError, match=r"expected the images in .*/test/ or .*/test_0/ and so on"):
        found("openimages-v4", tmp_path, "test")
