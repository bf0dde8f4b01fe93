"""Two sets of photographs from the web: WebVision 1.0 (Li et al. 2017) and Open Images V4 (Kuznetsova et al. 2020)."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import read_pairs, reading
from tools.shard_builder.readers.base import Listing, Reader, Seen, SourceError
from tools.shard_builder.readers.image_folder import walk_images
from tools.shard_builder.readers.layout import find, listed_files

_WEBVISION_LISTS = {
    "train": ("train_filelist_google.txt", "train_filelist_flickr.txt"),
    "val": ("val_filelist.txt",),
}


def webvision(source: Path, split: str) -> Reader:
    """Lists in `info/` give the class of each image. For validation the lists omit the folder of the images."""
    info = find(source, "info/synsets.txt", "webvision").parent
    classes = tuple(wnid for wnid, _ in read_pairs(info / "synsets.txt"))
    root = info.parent
    if split == "val":
        root = next((path for name in ("val_images_256", "val_images") if (path := root / name).is_dir()), root)

    def rows() -> Iterator[tuple[str, Label]]:
        for name in _WEBVISION_LISTS[split]:
            with reading(info / name, "a list of images and class numbers"):
                for path, number in read_pairs(info / name):
                    if not number.isascii() or not number.isdecimal() or int(number) >= len(classes):
                        raise ValueError(f"{path} has the class number {number}, but there are {len(classes)} classes")
                    yield path, int(number)

    return Listing(classes, lambda: listed_files(root, rows()))


def open_images(source: Path, split: str) -> Reader:
    """Folders of unlabelled images: `train/`, or `train_0/` to `train_f/`, as the archives unpack.

    Labels are not read: they are incomplete, several per image, and pre-training needs none.
    """
    folders = [path for path in (source / split, *sorted(source.glob(f"{split}_?"))) if path.is_dir()]
    if not folders:
        raise SourceError(
            f"expected the images in {source / split}/ or in {source / split}_0/ and so on, but neither exists"
        )

    def seen() -> Iterator[Seen]:
        for folder in folders:
            yield from walk_images(source, folder.name, None)

    return Listing((), seen)
