"""KITTI's closest vehicle, the classification task of the VTAB benchmark (Zhai et al. 2019).

Images and boxes come from KITTI's object detection benchmark. The label is the distance of the nearest car, van or
truck. Test and validation get a tenth of the videos each, drawn with a fixed seed as in TensorFlow Datasets. So no
video is in two splits.
"""

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import nth, read_lines, reading
from tools.shard_builder.readers.base import Listing, Reader
from tools.shard_builder.readers.layout import find, listed_files

CLASSES = ("below 8 m", "8 to 20 m", "beyond 20 m", "no vehicle")
_VEHICLES = {"Car", "Van", "Truck"}
_DEPTH_COLUMN = 13  # type, truncated, occluded, alpha, box (4), size (3), location x y z, rotation
_THRESHOLDS_M = (8.0, 20.0, 999.0)
_SEED = 123
_SHARE = 10  # one video in ten


def kitti_distance(source: Path, split: str) -> Reader:
    """Read `training/image_2`, `training/label_2` and the devkit's `mapping` from images to videos."""
    mapping = find(source, "mapping/train_mapping.txt", "devkit_object", "devkit").parent
    labels = find(source, "training/label_2", "object", "data_object")
    with reading(mapping / "train_rand.txt", "the devkit's list of line numbers"):
        lines = read_lines(mapping / "train_mapping.txt")
        order = (mapping / "train_rand.txt").read_text().split(",")
        videos = [nth(lines, int(number)).split()[1] for number in order]
    chosen = _videos(videos, split)
    images = [f"{number:06d}" for number, video in enumerate(videos) if video in chosen]
    rows: list[tuple[str, Label]] = [(f"{image}.png", _label(labels / f"{image}.txt")) for image in images]
    return Listing(CLASSES, partial(listed_files, labels.with_name("image_2"), rows))


def _videos(videos: list[str], split: str) -> set[str]:
    names = sorted(set(videos))
    num_drawn = max(1, len(names) // _SHARE)
    random = np.random.RandomState(_SEED)
    test = set(random.choice(names, num_drawn, replace=False).tolist())
    val = set(random.choice(sorted(set(names) - test), num_drawn, replace=False).tolist())
    return {"train": set(names) - test - val, "val": val, "test": test}[split]


def _label(path: Path) -> int:
    with reading(path, "a KITTI object annotation"):
        objects = [line.split() for line in read_lines(path)]
        depths_m = [float(columns[_DEPTH_COLUMN]) for columns in objects if columns[0] in _VEHICLES]
    nearest_m = min(depths_m, default=np.inf)
    return sum(nearest_m > threshold for threshold in _THRESHOLDS_M)
