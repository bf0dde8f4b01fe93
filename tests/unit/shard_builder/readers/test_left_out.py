"""Everything that is seen is counted: images that cannot be taken are rejects, other files have an account."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run
from support.miniature import write_tar
from support.shards import encode, jpegs, picture
from tools.shard_builder.build.finish import BuildError, read_rejects
from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.run import BuildOptions, BuildReport, build
from tools.shard_builder.readers import SourceError

IMAGES = jpegs(20)


def folder(root: Path, *names: str, data: bytes | None = None) -> Path:
    """Files of different images, or of `data`."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGES[number] if data is None else data)
    return root


def run(source: Path, dest: Path, dataset: str = "image-folder", **options: Any) -> BuildReport:
    return build(BuildOptions(dataset, source, "train", str(dest), **{"max_rejects": 99} | options))


def rejects(dest: Path) -> dict[str, str]:
    """Reason by path."""
    return {reject.path: reject.reason for reject in read_rejects(Store(dest))}


def test_images_of_every_suffix_are_seen(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jfif", "train/a/2.jpe", "train/a/3.JPEG")
    for suffix, kind in {"bmp": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF", "ppm": "PPM"}.items():
        (source / f"train/a/x.{suffix}").write_bytes(encode(picture(1), kind))
    report = run(source, tmp_path / "out")
    assert (report.num_samples, report.num_rejects) == (3, 5)
    assert report.rejects == {".bmp": 1, ".gif": 1, ".ppm": 1, ".tif": 1, ".tiff": 1}
    assert rejects(tmp_path / "out")["a/x.gif"] == "not a JPEG, PNG or WebP image, but GIF, which --to-jpeg converts"
    assert any("unless --to-jpeg" in note and ".bmp 1" in note for note in report.notes)
    with pytest.raises(BuildError, match=r"5 images were rejected, more than --max-rejects 0.*\.bmp 1"):
        run(source, tmp_path / "again", max_rejects=0)
    assert run(source, tmp_path / "jpeg", images=ImagePolicy(to_jpeg=True)).num_samples == 8


def test_other_files_are_counted_by_suffix_and_end_no_build(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg")
    folder(
        source, "train/a/1.txt", "train/a/2.TXT", "train/a/x/labels.xml", "train/a/LICENSE", "train/r.csv", data=b"x"
    )
    report = run(source, tmp_path / "out", max_rejects=0)
    assert report.left_out == {".csv": 1, ".txt": 2, ".xml": 1, "(no suffix)": 1}
    assert read_manifest(Store(tmp_path / "out")).left_out == report.left_out
    assert "5 files left out, which are no images: .txt 2, " in report.notes[-1]
    folder(source, "train/a/new.txt", data=b"x")  # no other build: the images are the same
    assert run(source, tmp_path / "out").was_complete


def test_the_account_is_in_what_the_commands_print(run: Run, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg", "train/a/2.jpg")
    folder(source, "train/a/3.gif", "train/a/4.txt", data=b"#, cut")
    args = ["--dataset", "image-folder", "--source", source, "--split", "train"]
    build_args = ["build", *args, "--dest", tmp_path / "out", "--num-workers", 1]
    assert "(.gif 1)" in run(*build_args, status=2)
    out = run(*build_args, "--max-rejects", 1)
    assert "1 rejected (.gif 1); 1 files left out, which are no images (.txt 1)" in out
    report = json.loads(run(*build_args, "--json"))
    assert report["rejects"] == {".gif": 1} and report["left_out"] == {".txt": 1} and len(report["notes"]) == 2
    words = ["--world-size", 1, "--ranks-per-node", 1, "--global-batch", 1, "--lanes", 1]
    assert json.loads(run("plan", *args, *words, "--json"))["left_out"] == {".txt": 1}
    assert ".txt" in run("plan", *args, *words)
    assert json.loads(run("stats", tmp_path / "out", "--json"))["left_out"] == {".txt": 1}
    run("copy", tmp_path / "out", tmp_path / "copy")
    assert read_manifest(Store(tmp_path / "copy")).left_out == {".txt": 1}


def test_parts_that_are_built_elsewhere_keep_the_account(run: Run, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", *(f"train/a/{i}.jpg" for i in range(9)))
    folder(source, "train/a/4.txt", data=b"x")
    args = ["build", "--dataset", "image-folder", "--source", source, "--split", "train", "--dest", tmp_path / "out"]
    run(*args, "--shard-size", "6kB", "--num-workers", 1, "--shard-range", ":1")
    run(*args, "--shard-size", "6kB", "--num-workers", 1, "--shard-range", "1:")
    assert json.loads(run("finalize", "--dest", tmp_path / "out", "--json"))["left_out"] == {".txt": 1}


def test_an_image_that_is_called_something_else_is_lost_not_passed_over(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg", "train/a/2", "train/a/3.jpg_large", "train/a/4.data")
    report = run(source, tmp_path / "out")
    assert (report.num_samples, report.num_rejects, report.left_out) == (1, 3, {})
    assert "its suffix is not that of one" in rejects(tmp_path / "out")["a/2"]
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP"):
        (source / "train/a/9").write_bytes(encode(picture(1), kind))
        assert run(source, tmp_path / kind).num_rejects == 4, kind


def test_images_beside_the_classes_and_hidden_ones_are_lost(tmp_path: Path) -> None:
    source = folder(
        tmp_path / "in", "train/a/1.jpg", "train/2.jpg", "train/a/.3.jpg", "train/.git/4.jpg", "train/a/.x/5.jpg"
    )
    assert run(source, tmp_path / "out").num_samples == 1
    assert rejects(tmp_path / "out").keys() == {"2.jpg", "a/.3.jpg", ".git/4.jpg", "a/.x/5.jpg"}
    assert "beside the class folders" in rejects(tmp_path / "out")["2.jpg"]
    assert "begins with a dot" in rejects(tmp_path / "out")["a/.x/5.jpg"]


def test_files_of_operating_systems_are_passed_over(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg")
    names = (
        ".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "@eaDir/1.jpg", "__MACOSX/._1.jpg", "__MACOSX/1.jpg",
        "$RECYCLE.BIN/1.jpg", "System Volume Information/x", ".Trash-1000/1.jpg", "lost+found/1.jpg", "#recycle/1.jpg",
        ".Spotlight-V100/x", ".ipynb_checkpoints/1.jpg", "ehthumbs.db", ".nfs000000000012345600000001",
    )  # fmt: skip
    folder(source, *(f"train/a/{name}" for name in names), *(f"train/{name}" for name in names), data=IMAGES[0])
    report = run(source, tmp_path / "out", max_rejects=0)
    assert (report.num_samples, report.num_classes, report.left_out) == (1, 1, {})
    write_tar(
        tmp_path / "tars/train-0.tar", {"._a.jpg": b"x", "a.jpg": IMAGES[0], ".DS_Store": b"x", "__MACOSX/a.jpg": b"x"}
    )
    report = run(tmp_path / "tars", tmp_path / "wds", "webdataset", max_rejects=0)
    assert (report.num_samples, report.left_out) == (1, {})


def test_an_empty_class_folder_is_named_for_it_shifts_the_labels_after_it(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg", "train/c/1.jpg")
    (source / "train/b").mkdir()
    report = run(source, tmp_path / "out")
    assert report.notes == ("no image of 1 of the 3 classes, which keep their labels: 'b'",)


@pytest.mark.timeout(30)
def test_pipes_sockets_and_loops_are_seen_and_not_read(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "train/a/1.jpg")
    os.mkfifo(source / "train/a/pipe.jpg")
    os.mkfifo(source / "train/a/pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "train/a/s.png"))
    for place, target in {"a/loop": "..", "a/self": ".", "b": "../train", "up": "../../.."}.items():
        (source / "train" / place).symlink_to(target)
    (source / "train/a/gone.txt").symlink_to("nowhere")
    report = run(source, tmp_path / "out")
    assert (report.num_samples, report.num_classes, report.num_rejects) == (1, 1, 2)
    assert report.left_out == {"link to a folder above it": 4, "link to nothing": 1, "pipe, socket or device": 1}


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", "1.jpg", "x/2.jpg")
    source = folder(tmp_path / "in", "train/a/1.jpg")
    (source / "train/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/x/back").symlink_to(source / "train/b")
    report = run(source, tmp_path / "out")
    assert (report.num_samples, report.num_classes, report.left_out) == (3, 2, {"link to a folder above it": 1})


def test_a_very_deep_folder_is_read(tmp_path: Path) -> None:
    deep = str(tmp_path / "in/train")
    os.makedirs(deep)
    for _ in range(sys.getrecursionlimit() + 50):
        os.mkdir(deep := f"{deep}/d")
    with open(f"{deep}/1.jpg", "wb") as file:
        file.write(IMAGES[0])
    try:
        assert run(tmp_path / "in", tmp_path / "out").num_samples == 1
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "in"], check=True)  # shutil would not come to the end


def test_tar_members_that_are_no_sample_are_counted(tmp_path: Path) -> None:
    one, two, three, four, five, six = IMAGES[:6]
    files = {
        "v1.0.jpg": one, "v1.1.jpg": two,  # webdataset takes both for sample v1
        "b.jpg": three, "b.seg.png": four, "b.png": five, "b.txt": b"a caption",
        "c.txt": b"no image", "README": b"x", "x/.d.jpg": six,
    }  # fmt: skip
    write_tar(tmp_path / "train-0.tar", files)
    report = run(tmp_path, tmp_path / "out", "webdataset")
    assert (report.num_samples, report.num_rejects, report.left_out) == (1, 5, {".txt": 2, "(no suffix)": 1})
    reasons = rejects(tmp_path / "out")
    assert (
        "a key must have no dot" in reasons["train-0.tar/v1.0.jpg"]
        and "a key must have no dot" in reasons["train-0.tar/b.seg.png"]
    )
    assert "another image of a sample" in reasons["train-0.tar/b.png"]
    assert "not KEY.SUFFIX" in reasons["train-0.tar/x/.d.jpg"]


def test_links_in_a_tar_are_lost(tmp_path: Path) -> None:
    import tarfile

    write_tar(tmp_path / "train-0.tar", {"a.jpg": IMAGES[0]})
    with tarfile.open(tmp_path / "train-0.tar", "a") as tar:
        for name, kind in {"b.jpg": tarfile.LNKTYPE, "c.jpg": tarfile.SYMTYPE, "d.jpg": tarfile.FIFOTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    run(tmp_path, tmp_path / "out", "webdataset")
    reasons = rejects(tmp_path / "out")
    assert len(reasons) == 3 and reasons["train-0.tar/b.jpg"] == "it is a link in train-0.tar, not a file"


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.zst", "TAR.GZ"])
def test_compressed_tars_are_counted_and_fail_the_build(suffix: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.jpg": IMAGES[0]})
    write_tar(tmp_path / f"train-1.{suffix}", {"b.jpg": IMAGES[1]}, "w:gz")
    with pytest.raises(BuildError, match=rf"the first is train-1\.{suffix} \(it is a compressed tar; decompress it"):
        run(tmp_path, tmp_path / "out", "webdataset", max_rejects=0)
    assert rejects(tmp_path / "out").keys() == {f"train-1.{suffix}"}
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(SourceError, match=rf"only compressed ones are there, 'train-1\.{suffix}': decompress them"):
        run(tmp_path, tmp_path / "again", "webdataset")


def test_what_builds_put_beside_tars_is_no_loss(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    assert run(tmp_path / "out", tmp_path / "again", "webdataset", max_rejects=0).left_out == {}


def test_a_tar_without_its_end_is_refused_even_if_it_is_cut_between_members(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "train-0.tar", {"a.jpg": IMAGES[0], "b.jpg": IMAGES[1]})
    end = data.index(b"b.jpg")
    (tmp_path / "train-0.tar").write_bytes(data[:end])
    with pytest.raises(SourceError, match=rf"no end mark at byte {end}: the tar is cut or garbled there"):
        run(tmp_path, tmp_path / "out", "webdataset")
    (tmp_path / "train-0.tar").write_bytes(data[:end] + b"\xff" * 512 + data[end + 512 :])  # a garbled header
    with pytest.raises(SourceError, match="garbled"):
        run(tmp_path, tmp_path / "out", "webdataset")


def test_tars_that_were_put_together_with_cat_are_refused(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "train-0.tar", {"a.jpg": IMAGES[0]})
    (tmp_path / "train-0.tar").write_bytes(data + data)
    with pytest.raises(SourceError, match=r"there is more after its end mark .* several tars"):
        run(tmp_path, tmp_path / "out", "webdataset")
    (tmp_path / "train-0.tar").write_bytes(data + bytes(2**21))  # zeros are filling
    assert run(tmp_path, tmp_path / "out", "webdataset").num_samples == 1


def test_images_of_a_zip_that_its_map_does_not_list_are_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name, data in zip(("a.jpg", "b.jpg", "c.jpg", ".DS_Store"), IMAGES, strict=False):
            archive.writestr(name, data)
        archive.mkdir("empty")
    (tmp_path / "train_map.txt").write_text("a.jpg\t0\n")
    report = run(tmp_path, tmp_path / "out", "esvit-zip", max_rejects=0)
    assert (report.num_samples, report.left_out) == (1, {"not in train_map.txt": 2})
