"""The command line: what it prints, what it exits with, and one sentence for every mistake."""

import json
import sys
from pathlib import Path

import pytest

from tools.shard_builder import cli


class Run:
    """Runs `shard-builder` in this process and keeps what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: object, status: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["shard-builder", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capsys.readouterr()
        assert caught.value.code == status, err
        assert "Traceback" not in err
        return out if status in (0, 1) else err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def build_args(source: Path, dest: Path) -> list[object]:
    return [
        "build", "--dataset", "image-folder", "--source", source, "--split", "train", "--dest", dest,
        "--shard-size", "20kB", "--workers", 1,
    ]  # fmt: skip


def test_build_verify_stats(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    out = run(*build_args(tiny_image_folder, tmp_path / "out"))
    assert "36 samples of 3 classes" in out and "MB/s" in out
    assert "nothing to do" in run(*build_args(tiny_image_folder, tmp_path / "out"))
    assert run("verify", tmp_path / "out").startswith("ok: ")
    assert "bee" in run("stats", tmp_path / "out")
    (tmp_path / "out/train-000000.tar").unlink()
    assert "not ok: 1 problems" in run("verify", tmp_path / "out", status=1)


def test_json_is_one_line(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    report = json.loads(run(*build_args(tiny_image_folder, tmp_path / "out"), "--json"))
    assert report["num_samples"] == report["num_samples_written"] == 36
    assert report["mb_per_s"] > 0 and report["samples_per_s"] > 0
    stats = json.loads(run("stats", tmp_path / "out", "--json"))
    assert stats["samples_per_class"] == {"ant": 12, "bee": 12, "cat": 12}
    assert stats["digest"] == report["manifest_digest"]


def test_mistakes_give_one_sentence(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    assert "cannot read source" in run(*build_args(tmp_path / "none", tmp_path / "out"), status=2)
    assert "holds no manifest.json" in run("verify", tmp_path / "none", status=2)
    assert "holds no manifest.json" in run("stats", tmp_path / "none", status=2)
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    other = run(*build_args(tiny_image_folder, tmp_path / "out"), "--no-shuffle", status=2)
    assert other.startswith("error: ") and other.count("\n") == 1


@pytest.mark.parametrize("flag", ["--shard-size=big", "--shard-size=0", "--workers=0", "--split=a/b"])
def test_bad_values_are_explained(run: Run, tmp_path: Path, flag: str) -> None:
    assert flag.split("=")[0] in run(*build_args(tmp_path, tmp_path / "out"), flag, status=2)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("256MB", 256_000_000), ("1GiB", 2**30), ("64kB", 64_000), ("1.5M", 1_500_000), ("10", 10)],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert cli._num_bytes(text) == num_bytes
