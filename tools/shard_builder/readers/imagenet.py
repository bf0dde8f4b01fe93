"""ImageNet-1K and ImageNet-22K, as folders or as the tars of the original download (Russakovsky et al. 2015).

An image has the same path and key in every layout, so every layout gives the same shards.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from tools.shard_builder.readers.annotations import read_csv, read_mat, reading
from tools.shard_builder.readers.archives import Member, member_seen, nested_tar_members, tar_members
from tools.shard_builder.readers.base import Listing, Reader, Record, Seen, SourceError
from tools.shard_builder.readers.layout import class_folders
from tools.shard_builder.readers.sources import FileSource

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"
KAGGLE_TRUTH = "LOC_val_solution.csv"
WHOLE_22K_TAR = "fall11_whole.tar"


def imagenet_1k(source: Path, split: str) -> Reader:
    """Read class folders, original tars or Kaggle's copy. A flat validation set gets its classes from the devkit."""
    folder = next((path for path in (source / split, source / KAGGLE_IMAGES / split) if path.is_dir()), None)
    if folder and any(entry.is_dir() for entry in folder.iterdir()):
        return class_folders(folder)
    if split == "val":
        return _flat_validation(source, folder)
    if not (source / TRAIN_TAR).exists():
        raise SourceError(f"expected {source / TRAIN_TAR} or {source}/train/WNID/*.JPEG, but neither exists")
    return _tar_of_tars(source / TRAIN_TAR)


def imagenet_22k(source: Path, split: str) -> Reader:
    """Read one folder or tar per synset, or `fall11_whole.tar`, which contains those tars."""
    if (source / split).is_dir():
        source = source / split
    if tars := sorted(source.glob("n*.tar")):
        return _synsets(lambda: ((path, path.stem, tar_members(path)) for path in tars))
    if (source / WHOLE_22K_TAR).exists():
        return _tar_of_tars(source / WHOLE_22K_TAR)
    if not any(re.fullmatch(r"n\d{8}", entry.name) for entry in source.glob("n*")):
        raise SourceError(f"expected WNID/*.JPEG, WNID.tar or {WHOLE_22K_TAR} in {source}, but none exists")
    return class_folders(source)


def _tar_of_tars(path: Path) -> Listing:
    return _synsets(lambda: ((path, PurePosixPath(name).stem, members) for name, members in nested_tar_members(path)))


def _synsets(list_synsets: Callable[[], Iterator[tuple[Path, str, Iterator[Member]]]]) -> Listing:
    """The reader of (file, synset, members in the file). An image gets the path that it has in class folders."""
    classes = tuple(sorted(wnid for _, wnid, _ in list_synsets()))
    labels = {wnid: label for label, wnid in enumerate(classes)}

    def seen() -> Iterator[Seen]:
        for archive, wnid, members in list_synsets():
            for member in members:
                yield member_seen(member, f"{wnid}/{member.name}", labels[wnid], archive)

    return Listing(classes, seen)


def _flat_validation(source: Path, folder: Path | None) -> Listing:
    """The images of a flat folder or of the tar. An image gets the path that it has in class folders."""
    truth, tar = _validation_classes(source), source / VAL_TAR
    if not folder and not tar.exists():
        raise SourceError(f"expected {tar} or {source}/val/*.JPEG, but neither exists")
    classes = tuple(sorted(set(truth.values())))
    labels = {wnid: label for label, wnid in enumerate(classes)}

    def seen() -> Iterator[Seen]:
        if folder:
            for name, wnid in truth.items():
                yield Record.of(f"{wnid}/{name}", labels[wnid], FileSource.at(folder, name))
            return
        for member in tar_members(tar):
            name = PurePosixPath(member.name).name
            if name not in truth:
                raise SourceError(f"{tar} holds {name}, which the ground truth does not list")
            yield member_seen(member, f"{truth[name]}/{name}", labels[truth[name]], tar)

    return Listing(classes, seen)


def _validation_classes(source: Path) -> dict[str, str]:
    """Map the file name of every validation image to its class, from Kaggle's table or from the devkit."""
    if (source / KAGGLE_TRUTH).exists():
        rows = read_csv(source / KAGGLE_TRUTH, "ImageId", "PredictionString")
        return {f"{name}.JPEG": boxes.split()[0] for name, boxes in rows}
    devkit = source / DEVKIT
    if not devkit.is_dir():
        raise SourceError(
            f"expected the images in {source}/val/WNID/*.JPEG, or, with the classes of a flat validation set, the "
            f"folder {devkit} (unpack {DEVKIT}.tar.gz) or {source / KAGGLE_TRUTH}; none exists"
        )
    wnids = _devkit_wnids(devkit / "data/meta.mat")
    with reading(devkit / TRUTH, "a list of class numbers"):
        numbers = [int(line) for line in (devkit / TRUTH).read_text().split()]
        return {f"ILSVRC2012_val_{i:08d}.JPEG": wnids[number] for i, number in enumerate(numbers, 1)}


def _devkit_wnids(path: Path) -> dict[int, str]:
    """Map the devkit's class numbers to synsets. Numbers above 1,000 are inner nodes, which have no images."""
    synsets = read_mat(path, "synsets")
    with reading(path, "the devkit's list of synsets"):
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
