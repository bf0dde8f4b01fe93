"""KITTI: the class of an image is the distance of its nearest vehicle."""

from pathlib import Path

import pytest

from support.miniature import Miniature, found
from tools.shard_builder.readers import SourceError
from tools.shard_builder.readers.kitti_distance import _videos


def kitti(mini: Miniature) -> None:
    videos = [f"2011_09_26 2011_09_26_drive_{number:04d}_sync {frame:010d}" for number in range(20) for frame in (0, 1)]
    order = list(reversed(range(1, len(videos) + 1)))
    mini.text("mapping/train_mapping.txt", *videos)
    mini.file("mapping/train_rand.txt", ",".join(map(str, order)).encode())
    nearest_m = {0: ("Car", 7.5), 1: ("Van", 20.0), 2: ("Truck", 20.1), 3: ("Pedestrian", 3.0)}
    drives = [videos[line - 1].split()[1] for line in order]
    for image, drive in enumerate(drives):
        kind, depth_m = nearest_m[image % 4]
        far = "Car 0.00 0 -1.57 1 2 3 4 1.5 1.6 3.7 1.0 1.5 90.0 -1.6"
        near = f"{kind} 0.00 0 -1.57 1 2 3 4 1.5 1.6 3.7 1.0 1.5 {depth_m} -1.6"
        ignored = "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10"
        mini.text(f"training/label_2/{image:06d}.txt", near, ignored, *([] if kind == "Pedestrian" else [far]))
        split = next(split for split in ("train", "val", "test") if drive in _videos(drives, split))
        name = ("below 8 m", "8 to 20 m", "beyond 20 m", "no vehicle")[image % 4]
        mini.image(f"training/image_2/{image:06d}.png", split, name, file_format="PNG")


def test_kitti_says_how_far_the_nearest_vehicle_is_and_splits_by_video(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    kitti(mini)
    for split, num_images in {"train": 32, "val": 4, "test": 4}.items():
        images = found("kitti-distance", tmp_path, split)
        assert images == mini.expected[split] and len(images) == num_images
    (tmp_path / "training/label_2/000000.txt").write_text("Car 0.0\n")
    with pytest.raises(SourceError, match=r"label_2/000000\.txt is not a KITTI object annotation"):
        [found("kitti-distance", tmp_path, split) for split in mini.expected]


def test_a_list_that_counts_from_1_has_no_item_0(tmp_path: Path) -> None:
    kitti(Miniature(tmp_path / "kitti"))
    (tmp_path / "kitti/mapping/train_rand.txt").write_text("1,0,2")
    with pytest.raises(SourceError, match=r"train_rand\.txt is not .*: there is no item 0"):
        found("kitti-distance", tmp_path / "kitti", "train")
