"""A plain folder of images becomes shards: once, and again when it has changed."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import smooth_image
from esvit.training import images
from esvit.training.images import ImagesError, build_shards, scan
from pipeline.shards.data_sets import open_data_set


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine images, some of them nested, beside files that are none; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "My photos"
    rng = np.random.default_rng(0)
    for name in (
        "a.jpg",
        "b.JPEG",
        "c.png",
        "d.webp",
        "in/e.jpg",
        "in/deep/f.jpg",
        "train/g.jpg",
        "images/h.jpg",
        "i.jpg",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        smooth_image(rng, 40, 30).save(folder / name)
    for name in ("notes.txt", "in/clip.mp4", ".thumbnails/a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no image")
    return folder


def test_a_folder_is_counted_at_any_depth_without_hidden_names(photos: Path) -> None:
    found = scan(photos)
    assert found.num_images == 9
    assert found.num_bytes == sum((photos / name).stat().st_size for name in _names(photos))


def test_a_link_to_a_folder_above_is_not_followed(photos: Path) -> None:
    before = scan(photos)
    (photos / "in/up").symlink_to(photos)
    assert scan(photos) == before


def test_every_image_is_in_the_shards_whatever_the_folders_are_called(photos: Path) -> None:
    assert build_shards(scan(photos)) == 9
    manifest = open_data_set(str(scan(photos).cached)).manifest
    assert (manifest.num_samples, manifest.classes) == (9, ())


def test_an_unchanged_folder_is_not_built_twice(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_shards(scan(photos))
    assert "building shards" in capsys.readouterr().err
    monkeypatch.setattr(images, "_BUILDER", ["/no/builder"])
    (photos / "notes.txt").write_text("changed, but no image")
    assert build_shards(scan(photos)) == 9
    assert "building shards" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["time", "content", "name", "more", "fewer"])
def test_a_changed_folder_is_built_anew(photos: Path, change: str) -> None:
    before, image = scan(photos).cached, photos / "a.jpg"
    if change == "time":
        os.utime(image, ns=(0, 1))
    elif change == "content":
        image.write_bytes(image.read_bytes() + b"\0")
    elif change == "name":
        image.rename(photos / "z.jpg")
    elif change == "more":
        (photos / "more.jpg").write_bytes(image.read_bytes())
    else:
        image.unlink()
    assert scan(photos).cached != before


def test_two_folders_with_the_same_images_have_shards_of_their_own(photos: Path, tmp_path: Path) -> None:
    before = scan(photos)
    moved = scan(photos.rename(tmp_path / "moved"))
    assert moved.digest == before.digest and moved.cached != before.cached


def test_of_two_ranks_one_builds(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan(photos)
    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(build_shards, [folder, folder])) == [9, 9]
    assert capsys.readouterr().err.count("building shards") == 1


def test_a_package_of_ours_in_the_working_folder_is_not_taken_for_the_builder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").write_text("raise SystemExit('not the builder')")
    monkeypatch.chdir(tmp_path)
    assert build_shards(scan(photos)) == 9


def test_broken_images_are_left_out_and_counted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.jpg").write_text("no image")
    folder = scan(photos)
    assert build_shards(folder) == 9
    said = capsys.readouterr().err
    assert f"images left out: 1, each with its reason in {folder.cached}/rejects.jsonl" in said


def test_the_sentence_of_the_builder_is_passed_on(photos: Path) -> None:
    for number in range(30):
        (photos / f"{number}.jpg").write_text("no image")
    with pytest.raises(ImagesError, match=r"^30 images were rejected, more than --max-rejects 20: .*not a JPEG"):
        build_shards(scan(photos))


def test_a_builder_that_breaks_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_BUILDER", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ImagesError, match=r"ended with status 3: .* --source"):
        build_shards(scan(photos))


def test_only_the_first_rank_speaks_of_what_all_know(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_shards(scan(photos))
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    build_shards(scan(photos))
    assert capsys.readouterr().err == ""


def test_folders_that_cannot_be_trained_on_are_one_sentence(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    build_shards(scan(photos))
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/a.jpg").symlink_to("nowhere.jpg")
    for folder, sentence in {
        tmp_path / "nowhere": "there is no folder .*nowhere",
        photos / "a.jpg": "there is no folder .*a.jpg",
        tmp_path / "empty": r"empty holds no images: no \.jpg, ",
        scan(photos).cached: "holds shards, not images; use --set data.stream.shards=",
        tmp_path / "dangling": r"cannot read .*a\.jpg: No such file",
    }.items():
        with pytest.raises(ImagesError, match=sentence):
            scan(folder)


def test_a_cache_that_cannot_be_written_is_one_sentence(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(photos / "a.jpg"))
    with pytest.raises(ImagesError, match=r"cannot use the cache .*; set XDG_CACHE_HOME"):
        build_shards(scan(photos))


def _names(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in images.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
