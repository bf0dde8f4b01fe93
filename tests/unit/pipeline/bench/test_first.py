"""The benchmark of the first epoch: every contestant reads all of it, in a process of its own."""

import json
from pathlib import Path

import pytest

from pipeline.bench import first
from pipeline.bench.command import main
from support.shards import jpegs, write_shards


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["pipeline-bench", "first", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_it_reports_each_contestant_and_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, jpegs(24), jpegs(24, 24))
    assert command(monkeypatch, tmp_path, "--rounds", 2, "--batch-size", 8, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["epoch"].keys() >= {"ours", "files"} and report["epoch"]["ours"]["ours_to_this"] == 1
    assert all(row["megabytes_per_second"] > 0 and row["first_batch_s"] > 0 for row in report["epoch"].values())


def test_every_contestant_hands_out_every_byte(tmp_path: Path) -> None:
    images = jpegs(24)
    write_shards(tmp_path, images)
    assert sorted(first._ours(str(tmp_path), 8, 1)) == sorted(map(len, images))
    assert sum(first._files(str(tmp_path), 8, 1)) == (tmp_path / "tiny-000000.tar").stat().st_size


def test_a_remote_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(f"memory://{tmp_path.name}", jpegs(1))
    assert command(monkeypatch, f"memory://{tmp_path.name}") == 2
    assert "is not a local folder; 'pipeline-bench stream' measures remote stores" in capsys.readouterr().err
