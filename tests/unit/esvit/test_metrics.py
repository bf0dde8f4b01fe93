"""What a run reports: the log file, the line, the metrics, the samples."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esvit.distributed import World
from esvit.metrics import MetricsConfig, OutputError, _Remaining, run_log
from pipeline import telemetry
from pipeline.loader import ViewBatch

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
MASK = np.ones(2, bool)
BATCH = ViewBatch(
    epoch=0,
    step=3,
    ids=np.array([5, 1]),
    data_sets=np.zeros(2, np.int64),
    mask=MASK,
    labels=torch.zeros(2),
    views=[],
    num_encoded_bytes=10,
    read_keys=lambda ids: [f"k{i}" for i in ids],
)
SCALARS = {"loss": 2.0, "view": 2.0, "teacher_entropy": 0.5}


def _run_step(tmp_path: Path, view_loss: float) -> dict[str, Any]:
    """One logged step; returns the announced target."""
    config = MetricsConfig(log_every_steps=1, record_samples=True)
    with run_log(config, ALONE, tmp_path, num_prototypes=64) as log:
        log.begin(0, 10)
        with log.step() as timer:
            time.sleep(0.05)
            timer.got(BATCH)
            time.sleep(0.05)
        assert log.due(4, 10)
        log.log(4, 0.4, {**SCALARS, "view": view_loss}, lr=0.1)
        target: dict[str, Any] = json.loads((tmp_path / "targets/rank-0.json").read_text())[0]
    return target


def test_a_logged_step_has_its_speed_and_the_share_of_waiting(tmp_path: Path) -> None:
    before = telemetry.TRAIN_SAMPLES._value.get()
    _run_step(tmp_path, 2.0)
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert record["step"] == 4 and record["loss"] == 2.0 and record["lr"] == 0.1
    assert 5 < record["images_per_second"] < 21
    assert record["data_wait_share"] == pytest.approx(0.5, abs=0.2)
    assert telemetry.TRAIN_SAMPLES._value.get() == before + 2


def test_nothing_is_written_before_the_run_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    with pytest.raises(KeyError), run_log(MetricsConfig(record_samples=True), ALONE, output, num_prototypes=64) as log:
        log.say("looking")
        raise KeyError
    assert not output.exists() and capsys.readouterr().out == "looking\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match=r"cannot write the output folder .*/run: (File exists|Not a directory)"):
        _run_step(tmp_path / "run", 2.0)


def test_a_line_says_how_far_the_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run_step(tmp_path, 2.0)
    assert "\nstep 4 of 10  ETA 0:00:00  epoch 0.40  " in capsys.readouterr().out


def test_the_rest_takes_as_long_per_step_as_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    remaining = _Remaining(5, 1005)
    said = [remaining.describe(step) for step in (15, 25, 35)]  # 10 s per step, then 1: a slow start is forgotten
    assert said[0] == "step 15 of 1005  ETA 2:45:00"
    assert said[1:] == ["step 25 of 1005  ETA 1:29:50", "step 35 of 1005  ETA 0:52:32"]


def test_the_samples_are_recorded(tmp_path: Path) -> None:
    _run_step(tmp_path, 2.0)
    assert json.loads((tmp_path / "samples-rank-0.jsonl").read_text()) == {"epoch": 0, "step": 3, "ids": [5, 1]}


def test_the_endpoint_is_announced_until_the_run_ends_well(tmp_path: Path) -> None:
    assert _run_step(tmp_path, 2.0)["labels"] == {"rank": "0", "run": tmp_path.name}
    assert not list((tmp_path / "targets").iterdir())
    assert "esvit_train_steps_total" in (tmp_path / "metrics-rank-0.prom").read_text()


@pytest.mark.parametrize(("view_loss", "said"), [(4.1589, True), (4.0, False)])
def test_a_run_at_the_uniform_solution_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], view_loss: float, said: bool
) -> None:
    _run_step(tmp_path, view_loss)
    assert ("at ln K" in capsys.readouterr().out) == said
