"""From a plain folder of images to a training run, with the real commands."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from conftest import smooth_image
from support.training import BIN, environment, read_jsonl

pytestmark = pytest.mark.slow

SMALL = (
    "device=cpu",
    "augment.views=[{size: 32, count: 2, area: [0.4, 1.0]}, {size: 16, count: 2, area: [0.1, 0.4]}]",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images in one folder, without labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        smooth_image(rng, 48, 64).save(folder / f"{number}.jpg")
    return folder


def _train(photos: Path, output: Path, *overrides: str, num_ranks: int = 1) -> "subprocess.CompletedProcess[str]":
    start: list[str | Path] = [BIN / "esvit-train"]
    if num_ranks > 1:
        start = [BIN / "torchrun", "--standalone", f"--nproc-per-node={num_ranks}", "-m", "esvit.train"]
    settings = [word for setting in (*SMALL, *overrides) for word in ("--set", setting)]
    return subprocess.run(
        [*start, "--images", photos, "--output", output, *settings],
        env=environment({"XDG_CACHE_HOME": str(output.parent / "cache")}),
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip


def test_a_flat_folder_is_trained_on_and_not_built_twice(photos: Path, tmp_path: Path) -> None:
    first = _train(photos, tmp_path / "run", "schedule.epochs=2")
    assert "images: building shards" in first.stderr
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == 10
    assert (tmp_path / "run/config.yaml").exists()
    again = _train(photos, tmp_path / "run", "schedule.epochs=3")
    assert "images: building shards" not in again.stderr
    assert "resuming from" in again.stdout
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == 15


def test_two_ranks_train_on_a_folder_that_one_of_them_built(photos: Path, tmp_path: Path) -> None:
    done = _train(photos, tmp_path / "run", "schedule.epochs=1", num_ranks=2)
    assert done.stderr.count("images: building shards") == 1
    assert done.stderr.count("preset own_images_cpu") == 1
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == 5


def test_python_trains_on_a_folder_in_one_call(photos: Path, tmp_path: Path) -> None:
    code = """import sys, esvit
esvit.train(images=sys.argv[1], output=sys.argv[2], device="cpu", schedule={"epochs": 1})"""
    subprocess.run(
        [BIN / "python", "-c", code, photos, tmp_path / "run"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == 5
