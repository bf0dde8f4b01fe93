"""The commands that measure the stream: they run, add up, and find the default order to mix as they should."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bench.command import main
from pipeline.bench.shuffle import epoch, mixing
from pipeline.order import OrderConfig, SampleOrder
from support.shards import jpegs, write_shards


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setattr("sys.argv", ["pipeline-bench", *map(str, words), "--json"])
    with pytest.raises(SystemExit) as info:
        main()
    assert info.value.code == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """Shards in a store that is not a local folder."""
    url = f"memory://{tmp_path.name}"
    write_shards(url, *(jpegs(8, 8 * shard) for shard in range(6)))
    return url


def test_stream_measures_cold_and_warm_against_the_ceiling(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (remote, "--batch-size", 8, "--rounds", 3, "--cache-dir", tmp_path)
    rows = run(capsys, monkeypatch, "stream", *words)["epoch"]
    assert list(rows) == ["cold-ceiling", "cold", "warm-ceiling", "warm"]
    assert rows["cold-ceiling"]["ratio"] == rows["warm-ceiling"]["ratio"] == 1
    assert all(row["samples_per_second"] == pytest.approx(48 / row["seconds"]) for row in rows.values())
    assert len(list(tmp_path.rglob("*.tar"))) == 6  # the cold caches are gone


def test_clients_are_measured_as_far_as_they_are_installed(
    remote: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    rows = run(capsys, monkeypatch, "clients", remote, "--rounds", 2)["read"]
    assert list(rows) == ["s3fs"] and rows["s3fs"]["speed_to_s3fs"] == 1


def test_a_local_folder_has_no_cold_round(
    shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run(capsys, monkeypatch, "stream", shards, "--batch-size", 8, "--rounds", 1)["epoch"]
    assert list(rows) == ["warm-ceiling", "warm"]


def test_soak_reports_memory_and_files(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (remote, "--batch-size", 8, "--seconds", 2.5, "--cache-dir", tmp_path)
    row = run(capsys, monkeypatch, "soak", *words)
    assert row["epochs"] > 1 and row["samples"] == pytest.approx(row["epochs"] * 48)
    assert abs(row["files_late"] - row["files_early"]) < 20 and abs(row["memory_drift"]) < 0.2
    assert list(tmp_path.iterdir()) == []


def test_shuffle_reads_the_labels(
    shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run(capsys, monkeypatch, "shuffle", shards, "--batch-size", 8, "--order", "1x5,4x1")["ratios"]
    assert list(rows) == ["permutation", "default", "1 x 5", "4 x 1"]
    assert rows["default"]["classes_per_batch"] == 1  # each label of these shards occurs once


SIZES = [100] * 100
LABELS = np.repeat(np.arange(10), 1000)  # sorted by class, ten shards each


def test_the_default_order_mixes_sorted_classes_within_five_percent_of_a_permutation() -> None:
    rows = mixing(SIZES, LABELS, 256, {"default": OrderConfig(), "poor": OrderConfig(lanes=2, block_shards=1)})
    for name in ("classes_per_batch", "class_pairs", "class_pairs_next"):
        assert rows["default"][name] == pytest.approx(1, abs=0.05)
    assert float(str(rows["poor"]["class_pairs"])) > 3


def test_an_epoch_is_what_the_order_says() -> None:
    order = SampleOrder(SIZES, 0, 256, OrderConfig())
    assert len(set(epoch(order).tolist())) == order.num_steps * 256
