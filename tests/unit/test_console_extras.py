"""A command whose packages are not installed says in one sentence how to install them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.console.extras import EXTRAS
from support import console
from tools.shard_builder.build.run import BuildOptions, build

TRAIN = "pip install 'esvit-streaming[train]'"
DALI = "pip install 'esvit-streaming[dali]'"
CONFIG = ["--config", "configs/train/digits_view.yaml", "--set", "data.stream.shards=nowhere"]


def start(missing: Sequence[str], script: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run a console script in a process that cannot import these packages."""
    module, _, function = console.SCRIPTS[script].partition(":")
    # None in sys.modules makes every import of that name fail, as where it is not installed.
    code = f"""
import sys
for name in {list(missing)!r}: sys.modules[name] = None
from {module} import {function}
{function}()
"""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=console.REPOSITORY, check=False)


@pytest.fixture
def shards(tiny_image_folder: Path, tmp_path: Path) -> Path:
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(tmp_path / "shards")))
    return tmp_path / "shards"


def check(done: "subprocess.CompletedProcess[str]", sentence: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("esvit-train", [*CONFIG, "--set", "output=nowhere"]),
        ("esvit-eval", ["knn", "--checkpoint", "x", "--train", "x", "--test", "x"]),
        ("esvit-eval", ["export", "--checkpoint", "x", "--dest", "x"]),
        ("esvit-bench", []),
        ("pipeline-bench", ["crops", "x"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[:1]),
)
def test_in_the_base_install(script: str, words: list[str]) -> None:
    base = [package for package, extra in EXTRAS.items() if extra in ("train", "dali", "ray")]
    check(start(base, script, *words), TRAIN)


@pytest.mark.parametrize(
    ("missing", "executor", "sentence"),
    [
        ("cv2", "cpu", f"needs the package cv2; run: {TRAIN}"),
        ("simplejpeg", "cpu", f"needs the package simplejpeg; run: {TRAIN}"),
        ("torchvision", "original", f"needs the package torchvision; run: {TRAIN}"),
        ("nvidia", "dali-native", f"needs the package nvidia; run: {DALI}"),
        ("nvidia", "dali", f"run: {DALI}"),
    ],
)
def test_a_single_package(missing: str, executor: str, sentence: str, shards: Path) -> None:
    check(start([missing], "pipeline-bench", "crops", shards, "--executor", executor, "--device", "cpu"), sentence)


@pytest.mark.parametrize("missing", ["timm", "safetensors"])
def test_a_single_package_of_the_trainer(missing: str) -> None:
    check(start([missing], "esvit-eval", "export", "--checkpoint", "x", "--dest", "x"), f"{missing}; run: {TRAIN}")


def test_ray(tiny_image_folder: Path, tmp_path: Path) -> None:
    source = ["--dataset", "image-folder", "--source", tiny_image_folder, "--split", "train"]
    done = start(["ray"], "shard-builder", "build", *source, "--dest", tmp_path / "out", "--engine", "ray")
    check(done, "needs the package ray; run: pip install 'esvit-streaming[ray]'")


@pytest.mark.parametrize(
    ("missing", "dataset", "file", "extra"),
    [
        ("pyarrow", "parquet", "train-0.parquet", "parquet"),
        ("scipy", "oxford-flowers-102", "imagelabels.mat", "transfer"),
        ("h5py", "patch-camelyon", "camelyonpatch_level_2_split_train_{}.h5", "transfer"),
    ],
)
def test_readers_of_binary_formats(missing: str, dataset: str, file: str, extra: str, tmp_path: Path) -> None:
    for part in "xy":
        (tmp_path / file.format(part)).write_bytes(b"x")
    words = ["--dataset", dataset, "--source", tmp_path, "--split", "train", "--dest", tmp_path / "out"]
    sentence = f"needs the package {missing}; run: pip install 'esvit-streaming[{extra}]'"
    check(start([missing], "shard-builder", "build", *words), sentence)


def test_shards_are_built_and_the_stream_is_measured_without_torch(tiny_image_folder: Path, tmp_path: Path) -> None:
    base = [package for package, extra in EXTRAS.items() if extra == "train"]
    source = ["--dataset", "image-folder", "--source", tiny_image_folder, "--split", "train"]
    assert start(base, "shard-builder", "build", *source, "--dest", tmp_path / "out").returncode == 0
    done = start(base, "pipeline-bench", "stream", tmp_path / "out", "--batch-size", 8, "--rounds", 1)
    assert done.returncode == 0, done.stderr
