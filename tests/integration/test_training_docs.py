"""The examples of docs/training.md, run as they stand there."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from support import forking
from support.shards import jpegs, write_shards
from support.training import REPOSITORY, environment, read_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page, and shards."""
    page = (REPOSITORY / "docs/training.md").read_text()
    for name, content in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", jpegs(8), jpegs(8))
    return tmp_path


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return forking.run(command, environment({"PYTHONPATH": str(folder)}), folder)


def test_the_page_has_these_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {"train.py", "watched.py", "my_parts.py", "mine.yaml"}


@pytest.mark.parametrize(("script", "said"), [("train.py", "step 4 of 4"), ("watched.py", "loss at last ")])
def test_a_script_trains(folder: Path, script: str, said: str) -> None:
    done = run(folder, script)
    assert done.returncode == 0 and said in done.stdout, done.stderr
    if script == "watched.py":
        assert "step 4 is safe in runs/watched/checkpoints/step-00000004.pt" in done.stdout


def test_own_parts_train_and_are_evaluated_with_a_word(folder: Path) -> None:
    done = run(folder, "esvit-train", "--config", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "spread" in read_jsonl(folder / "runs/own-parts/log.jsonl")[-1]
    knn = ["esvit-eval", "knn", "--checkpoint", "runs/own-parts/checkpoints"]
    knn += ["--train", "shards", "--test"]
    refused = run(folder, *knn, "shards", "--size", "32")
    assert refused.returncode == 2 and "add --allow-import my_parts" in refused.stderr
    allowed = run(folder, *knn, "shards", "--size", "32", "--json", "--allow-import", "my_parts")
    assert allowed.returncode == 0 and json.loads(allowed.stdout)["top1"] > 0, allowed.stderr
