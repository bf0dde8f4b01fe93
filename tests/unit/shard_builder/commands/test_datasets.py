"""`shard-builder datasets`: everything about every data set, for people and for programs."""

import json
import sys
from pathlib import Path

import pytest

from support.miniature import Miniature
from tools.shard_builder import cli
from tools.shard_builder.readers import DATASETS


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["shard-builder", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, *capsys.readouterr()


def test_lists_all_of_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(monkeypatch, capsys, "datasets")
    assert status == 0
    for dataset in DATASETS.values():
        assert f"{dataset.name}: " in out and dataset.layout in out and dataset.page in out
    assert "imagenet-1k: train 1,281,167; val 50,000; 1,000 classes\n" in out


def test_shows_one_of_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(monkeypatch, capsys, "datasets", "hateful-memes", "--json")
    (row,) = json.loads(out)["datasets"]
    assert (row["metric"], row["num_images"]) == ("roc-auc", {"train": 8500, "test": 500})
    status, _, err = run(monkeypatch, capsys, "datasets", "imagenet-2k")
    assert status == 2 and "invalid choice: 'imagenet-2k'" in err


def test_a_build_from_a_wrong_layout_or_a_part_gives_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mini = Miniature(tmp_path / "in")
    mini.root.mkdir()
    args = ("build", "--dataset", "dtd", "--source", mini.root, "--split", "val", "--dest", tmp_path / "out")
    status, _, err = run(monkeypatch, capsys, *args)
    assert status == 2 and err.count("\n") == 1 and err.startswith(f"error: expected {mini.root}/labels/val1.txt or ")
    mini.text("labels/val1.txt", "banded/1.jpg")
    mini.image("images/banded/1.jpg", "val", "banded")
    status, _, err = run(monkeypatch, capsys, *args)
    assert status == 2 and err.count("\n") == 1 and "lacks the class 'blotchy' of dtd (and 45 more)" in err
    assert not (tmp_path / "out").exists()
    status, out, _ = run(monkeypatch, capsys, *args, "--allow-subset", "--num-workers", "1")
    assert status == 0 and "1 samples of 1 classes" in out
