"""The loop around the step: what it saves is safe before it says that it has ended."""

import signal
from pathlib import Path
from typing import Any

import pytest

import esvit.training
from esvit.training import train
from pipeline.command import EXIT_RETRY
from pipeline.store import StoreError
from support.tiny_runs import checkpoints, tiny_run


def in_the_way(output: Path, step: int) -> None:
    """A folder where the checkpoint of `step` would go: it cannot be written."""
    (output / f"checkpoints/step-{step:08d}.pt/folder").mkdir(parents=True)


def test_a_run_whose_last_checkpoint_is_not_written_does_not_end_well(tiny_shards: str, tmp_path: Path) -> None:
    in_the_way(tmp_path, 4)
    with pytest.raises(StoreError, match=r"cannot write .*step-00000004\.pt"):
        train(tiny_run(tiny_shards, tmp_path))


def test_sigterm_waits_for_its_checkpoint(
    tiny_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = esvit.training.train_step

    def interrupted_step(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(esvit.training, "train_step", interrupted_step)
    config = tiny_run(tiny_shards, tmp_path / "run", {"checkpoint": {"every_steps": 4}})
    assert train(config) == EXIT_RETRY
    said = capsys.readouterr().out
    assert said.index("saved") < said.index("step-00000001.pt") < said.index("stopped by SIGTERM")
    assert [state["step"] for state in checkpoints(config)] == [0, 1]
    in_the_way(tmp_path / "other", 1)
    with pytest.raises(StoreError, match=r"cannot write .*step-00000001\.pt"):
        train(tiny_run(tiny_shards, tmp_path / "other", {"checkpoint": {"every_steps": 4}}))


def test_the_draws_of_a_step_belong_to_seed_step_and_rank() -> None:
    seeds = [esvit.training._step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1, 300) for rank in (0, 7)]
    assert len(set(seeds)) == len(seeds)
