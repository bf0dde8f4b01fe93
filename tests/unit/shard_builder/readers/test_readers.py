"""The image folder: what counts as a class, an image and a key; and how the bytes of an image are found again."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.format.tar import KEY_PATTERN
from tools.shard_builder.readers import ImageFolder, SourceError
from tools.shard_builder.readers.base import make_key


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    return root


def paths(root: Path, split: str = "train") -> list[str]:
    return [record.path for record in ImageFolder(root, split).records()]


def test_reads_the_split_or_the_folder_itself(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.jpg", "train/a/1.jpg", "test/a/2.jpg")
    assert paths(tmp_path) == ["a/1.jpg", "b/1.jpg"]
    assert paths(tmp_path, "test") == ["a/2.jpg"]
    assert paths(tmp_path / "test") == ["a/2.jpg"]


def test_labels_are_positions_in_the_sorted_classes(tmp_path: Path) -> None:
    reader = ImageFolder(touch(tmp_path, "b/1.jpg", "a/1.jpg", "C/1.jpg"), "train")
    assert reader.classes == ("C", "a", "b")
    classes: Any = reader.classes  # which a label that is no number fails to index
    assert [classes[record.label] for record in reader.records()] == ["C", "a", "b"]


def test_takes_images_of_any_depth_and_case_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.JPEG", "a/x/2.Png", "a/3.webp", "a/4.txt", "a/.5.jpg", ".git/6.jpg", "7.jpg")
    assert paths(tmp_path) == ["a/1.JPEG", "a/3.webp", "a/x/2.Png"]


def test_record_reads_its_file(tmp_path: Path) -> None:
    reader = ImageFolder(touch(tmp_path, "a/1.jpg"), "train")
    (record,) = reader.records()
    assert record.num_bytes == 1 and record.source.read() == b"1"


def test_faults_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read source .*/nowhere: No such file"):
        ImageFolder(tmp_path / "nowhere", "train")
    with pytest.raises(SourceError, match="no class folders; expected"):
        ImageFolder(touch(tmp_path, "1.jpg"), "train")


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a/2.jpg").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"cannot read .*/a/2\.jpg"):
        paths(tmp_path)


def test_keys_are_readable() -> None:
    assert make_key("n01440764/n01440764_10026.JPEG").startswith("n01440764-n01440764_10026-")
    assert make_key("Ä Ö/Foto (1).jpg").startswith("foto-1-")


@given(st.sets(st.text(min_size=1, max_size=100), min_size=2, max_size=4))
def test_keys_fit_the_format_and_differ(some_paths: set[str]) -> None:
    keys = {make_key(path) for path in some_paths}
    assert len(keys) == len(some_paths)
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)


def test_keys_differ_where_slugs_do_not() -> None:
    assert len({make_key(path) for path in ("a/b.jpg", "A/b.jpg", "a/b.png", "a-b.jpg", "a/ b.jpg")}) == 5
