"""The command `shard-builder`, run inside the test's own process."""

import sys
from pathlib import Path

import pytest

from tools.shard_builder import cli


class Run:
    """Runs `shard-builder` in this process and captures its output."""

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


def build_args(source: Path, dest: Path) -> list[object]:
    """A build of an image folder into several small shards."""
    return [
        "build", "--dataset", "image-folder", "--source", source, "--split", "train", "--dest", dest,
        "--shard-size", "20kB", "--num-workers", 1,
    ]  # fmt: skip
