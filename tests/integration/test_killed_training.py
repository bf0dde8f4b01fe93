"""Training that is killed, by SIGKILL and by its own losses, and what a resumption makes of it.

ESVIT_KILLS=10 ESVIT_EPOCHS=50 pytest tests/integration/test_killed_training.py    the campaign: 10 kills in 200 steps
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esvit.checkpoints import files, source
from esvit.guards import CollapseError, DivergedError
from esvit.training.loop import TrainConfig
from esvit.training.loop import train as train_here
from pipeline import config as configuration
from pipeline.store import Store
from support.forking import Ranks
from support.training import (
    REPOSITORY,
    TINY,
    begin,
    read_jsonl,
    train,
    trained_samples,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("ESVIT_KILLS", "2"))
EPOCHS = int(os.environ.get("ESVIT_EPOCHS", "10"))  # of 4 steps
LAYOUTS = ((1, 1), (2, 1), (4, 1), (2, 2))  # ranks, parts a step


@pytest.mark.timeout(1800)
def test_killed_anywhere_a_run_ends_with_the_losses_of_an_uninterrupted_one(shards: str, tmp_path: Path) -> None:
    settings = (f"schedule.epochs={EPOCHS}", "checkpoint.every_steps=2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, shards, *settings).returncode == 0
    expected = {record["step"]: record["loss"] for record in read_jsonl(whole / "log.jsonl")}

    dice = random.Random(KILLS)
    for number in range(KILLS):
        goal = (number + dice.random()) / (KILLS + 1) * len(expected)  # kills spread over the run
        inside_a_write = number % 4 in (0, 3)
        ranks = 1 + number % 2
        with begin(parts, shards, *settings, num_ranks=ranks) as run:
            _kill_at(run, parts, goal, inside_a_write)
        store = Store(parts / "checkpoints")
        assert all(files.read(store, name)["step"] >= 0 for name in files.names(store))
    done = train(parts, shards, *settings, num_ranks=2)
    assert done.returncode == 0, done.stderr
    assert "falling back" not in done.stdout
    seen = {record["step"]: record["loss"] for record in read_jsonl(parts / "log.jsonl")}
    assert seen == pytest.approx(expected, abs=1e-4)
    assert not [name for name in os.listdir(parts / "checkpoints") if name.endswith(".part")]


def _kill_at(run: Ranks, output: Path, goal: float, inside_a_write: bool) -> None:
    """Kill all ranks once the log is past step `goal`: at once, or while a checkpoint is being written."""
    log = output / "log.jsonl"
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        reached = log.exists() and log.read_bytes().count(b'"step"') > goal
        writing = any((output / "checkpoints").glob(".*.part"))
        if not run.is_running() or (reached and (writing or not inside_a_write)):
            break
        time.sleep(0.0005)
    assert run.is_running(), "the run ended before it was killed"
    run.kill()


@pytest.mark.acceptance
def test_the_split_over_ranks_and_parts_changes_nothing(shards: str, tmp_path: Path) -> None:
    losses, samples = [], []
    for ranks, parts in LAYOUTS:
        output = tmp_path / f"{ranks}-{parts}"
        done = train(output, shards, "schedule.epochs=10", "global_batch=16", f"accumulation={parts}", num_ranks=ranks)
        assert done.returncode == 0, done.stderr
        losses.append([record["loss"] for record in read_jsonl(output / "log.jsonl")])
        samples.append(trained_samples(output, ranks))
    assert len(losses[0]) == 20
    assert samples == [samples[0]] * len(LAYOUTS)
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For training in this process: so small a network loses by a second one where CPUs are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(output: Path, shards: str, *overrides: str) -> TrainConfig:
    paths = (f"output={output}", f"data.stream.shards={shards}", f"data.stream.cache.folder={output}/cache")
    file = REPOSITORY / "configs/train/digits_view.yaml"
    return configuration.load(TrainConfig, [file], [*paths, *TINY, *overrides])


@pytest.mark.usefixtures("one_thread")
def test_a_loss_that_is_not_finite_stops_the_run_and_can_be_replayed(shards: str, tmp_path: Path) -> None:
    settings = ("schedule.epochs=3", "schedule.base_lr=1e38", "metrics.log_every_steps=4")
    with pytest.raises(DivergedError, match=r"of step 2 is not finite.*/failed"):
        train_here(_config(tmp_path, shards, *settings))
    assert files.names(Store(tmp_path / "checkpoints")) == ["step-00000000.pt"]
    replay = ("metrics.log_every_steps=1", f"checkpoint.url={tmp_path}/failed")
    with pytest.raises(DivergedError, match="of step 2 is not finite"):
        train_here(_config(tmp_path, shards, *settings, *replay))


@pytest.mark.usefixtures("one_thread")
def test_collapse_is_said_and_stops_a_run_that_is_to_stop(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("schedule.epochs=2", "guards.patience=2", "guards.min_feature_std=2")
    train_here(_config(tmp_path / "report", shards, *settings))
    assert capsys.readouterr().out.count("collapse: all images have the same features") == 1
    assert read_jsonl(tmp_path / "report/log.jsonl")[-1].keys() >= {"feature_std", "center_drift", "teacher_entropy"}
    with pytest.raises(CollapseError, match=r"all images have the same features.* for 2 logged steps"):
        train_here(_config(tmp_path / "stop", shards, *settings, "guards.on_collapse=stop"))


@pytest.mark.usefixtures("one_thread")
def test_a_run_falls_back_past_a_damaged_checkpoint(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(_config(tmp_path, shards, "schedule.epochs=2", "checkpoint.every_steps=4"))
    newest = tmp_path / "checkpoints/step-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    train_here(_config(tmp_path, shards, "schedule.epochs=3", "checkpoint.every_steps=4", "mixup.alpha=0.8"))
    said = capsys.readouterr().out
    assert "step-00000008.pt cannot be read" in said and "falling back" in said
    assert "resuming from" in said and "step-00000004.pt" in said
    assert "caution: these settings differ from the checkpoint's: mixup.alpha, schedule.epochs" in said
    assert source.load(str(tmp_path / "checkpoints"))["step"] == 12
