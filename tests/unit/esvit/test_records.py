"""What a run has recorded, after it was killed and went on: each step once, and no target of what is not there."""

import json
from pathlib import Path

import pytest

from esvit.training.loop import train
from pipeline.errors import UserError
from support.tiny_runs import forget_after, log, tiny_run

SAMPLES = {"metrics": {"record_samples": True}}  # 4 steps, 5 steps per pass over the data


@pytest.mark.parametrize("step", [0, 2])
def test_a_resume_leaves_each_step_once(step: int, tiny_shards: str, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, tmp_path, {**SAMPLES, "schedule": {"epochs": 4}})  # into the second pass
    assert train(config) == 0
    losses, samples = [record["loss"] for record in log(config)], (tmp_path / "samples-rank-0.jsonl").read_bytes()
    (tmp_path / "samples-rank-1.jsonl").write_bytes(samples)  # of a rank that is gone
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    forget_after(config, step)
    assert train(config) == 0
    assert [record["step"] for record in log(config)] == list(range(1, 9))
    assert [record["loss"] for record in log(config)] == losses
    assert (tmp_path / "samples-rank-0.jsonl").read_bytes() == samples
    assert (tmp_path / "samples-rank-1.jsonl").read_bytes().splitlines() == samples.splitlines()[:step]


def test_targets_of_ranks_that_are_gone_go_too(tiny_shards: str, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, tmp_path)
    assert train(config) == 0
    (tmp_path / "targets").mkdir(exist_ok=True)
    for rank in (1, 12):
        (tmp_path / f"targets/rank-{rank}.json").write_text(json.dumps([]))
    forget_after(config, 2)
    assert train(config) == 0
    assert list((tmp_path / "targets").iterdir()) == []


def test_a_start_that_is_refused_late_leaves_no_target(tiny_shards: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot write the output folder"):
        train(tiny_run(tiny_shards, tmp_path))
    assert list((tmp_path / "targets").iterdir()) == []
