"""From a plain folder of images to a training run, with the real commands."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import esvit
from conftest import smooth_image
from support.forking import Ranks
from support.training import environment, read_jsonl

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
    settings = [word for setting in (*SMALL, *overrides) for word in ("--set", setting)]
    command = ["esvit-train", "--images", str(photos), "--output", str(output), *settings]
    with Ranks(command, environment({"XDG_CACHE_HOME": str(output.parent / "cache")}), num_ranks) as ranks:
        done = ranks.end()
    assert done.returncode == 0, done.stderr
    return done


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


def test_python_trains_on_a_folder_in_one_call(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    esvit.train(images=photos, output=tmp_path / "run", device="cpu", schedule={"epochs": 1})
    assert read_jsonl(tmp_path / "run/log.jsonl")[-1]["step"] == 5
