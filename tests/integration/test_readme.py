"""The ways of README.md and the tutorial, run as they are written, on small images."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.pages import REPOSITORY, blocks
from support.shards import encode, jpegs, picture, write_shards
from support.training import BIN, TINY, environment, read_jsonl

pytestmark = pytest.mark.slow

FOLDER, MANY_NODES, LIBRARY = (block.text for block in blocks(REPOSITORY / "README.md") if block.language)
TUTORIAL = "".join(block.text for block in blocks(REPOSITORY / "docs/tutorial.md", "bash"))


def _bash(script: str, folder: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of the script, run in `folder`, where every command has to succeed."""
    own = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",  # a preset for a GPU would train for hours
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment({**own, **(env or {})}), capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _instead(text: str, old: str, new: str) -> str:
    """The text with `old`, which must be in it, replaced."""
    assert old in text
    return text.replace(old, new)


def test_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(16):
        (tmp_path / f"photos/{number}.jpg").write_bytes(encode(picture(number)))
    out = _bash(_instead(FOLDER, "--images photos", "--images photos --set schedule.epochs=5"), tmp_path)
    assert "step 20 of 20" in out
    assert (tmp_path / "exported/model.safetensors").exists()


@pytest.mark.s3
def test_many_nodes(tmp_path: Path, s3_server: Any) -> None:
    for split in ("train", "val"):
        for number in range(24):
            path = tmp_path / "photos" / split / f"class-{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(number + 100 * (split == "val"))))
    script = _instead(MANY_NODES, "s3://BUCKET", s3_server.new_url())
    script = _instead(script, "--nnodes 2 --nproc-per-node 8", "--nnodes 1 --nproc-per-node 2")
    script = _instead(script, "HOST:29500", "localhost:0")
    small = " ".join(f"--set '{setting}'" for setting in (*TINY, "schedule.epochs=1", "device=cpu"))
    script = _instead(script, "--config swin_tiny_w7", f"--config digits_view {small}")
    assert "top-1" in _bash(script, tmp_path, s3_server.env)
    assert read_jsonl(tmp_path / "runs/photos/log.jsonl")[-1]["step"] == 3


def test_the_pipeline_alone(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", jpegs(8), jpegs(8))
    script = _instead(LIBRARY, "s3://BUCKET/photos/train", str(tmp_path / "shards"))
    script = _instead(script, "global_batch=256", "global_batch=8")
    found: dict[str, Any] = {}
    exec(script, found)
    assert found["large"].shape == (2, 8, 3, 224, 224) and found["small"].shape == (8, 8, 3, 96, 96)
    assert found["state"]["position"] == 2


def test_the_tutorial(tmp_path: Path) -> None:
    script = _instead(TUTORIAL, "--config digits_view", "--config digits_view --set schedule.epochs=2")
    script = _instead(script, "zip(digits.images, digits.target)", "zip(digits.images[:400], digits.target)")
    out = _bash(script, tmp_path)
    assert "step 10 of 10" in out and "torch.Size([1, 64])" in out
    assert (tmp_path / "views.png").exists()


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_the_tutorial_in_full_has_the_score_that_it_promises(tmp_path: Path) -> None:
    before, after = re.findall(r"│ 10 +│ ([\d.]+)", _bash(TUTORIAL, tmp_path))
    assert float(before) == pytest.approx(50, abs=4) and float(after) == pytest.approx(67, abs=4)
