"""`esvit.train` from Python: what it takes, what it calls, how it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import esvit
from esvit.checkpoints import files
from esvit.training.api import resolved
from pipeline.config import ConfigError
from pipeline.store import Store
from support.shards import jpegs, write_shards
from support.training import TINY

LOSS = """
from esvit.losses import EsvitLoss


class Twice(EsvitLoss):
    def forward(self, *args, **kwargs):
        scalars = super().forward(*args, **kwargs)
        return {**scalars, "loss": 2 * scalars["loss"]}
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A run of four steps."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", jpegs(8), jpegs(8))
    tiny = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in TINY)}
    return {**tiny, "output": tmp_path / "run", "data.stream.shards": tmp_path / "shards", "schedule": {"epochs": 2}}


def test_the_names_for_users() -> None:
    assert esvit.__all__ == ["CheckpointEvent", "StepEvent", "TrainConfig", "train"]
    assert all(getattr(esvit, name) for name in esvit.__all__) and set(esvit.__all__) <= set(dir(esvit))
    with pytest.raises(AttributeError, match="module 'esvit' has no attribute 'trian'"):
        esvit.trian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy_and_its_module_train_can_be_called() -> None:
    code = """
import sys, esvit
assert "torch" not in sys.modules
import esvit.commands.train, esvit.train
assert "torch" not in sys.modules
assert callable(esvit.train) and esvit.train.main
try:
    esvit.train("nosuch")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("there is no preset 'nosuch'")


def test_callbacks_see_every_step_and_every_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def on_step(event: esvit.StepEvent) -> None:
        assert event.state.step == event.step and event.scalars["loss"].item() > 0
        seen.append((event.step, event.num_steps, event.epoch))

    def on_checkpoint(event: esvit.CheckpointEvent) -> None:
        assert Path(event.url).exists()
        seen.append((event.step, event.url))

    esvit.train(
        "digits_view", on_step=on_step, on_checkpoint=on_checkpoint, **{**settings, "checkpoint.every_steps": 2}
    )
    steps, saved = [event for event in seen if len(event) == 3], [event for event in seen if len(event) == 2]
    assert steps == [(1, 4, 0.5), (2, 4, 1.0), (3, 4, 1.5), (4, 4, 2.0)]
    assert saved == [(step, f"{tmp_path}/run/checkpoints/step-{step:08d}.pt") for step in (0, 2, 4)]


def test_a_signal_ends_a_script_after_a_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    def stop(number: signal.Signals) -> Any:
        return lambda event: signal.raise_signal(number) if event.step in (1, 3) else None

    with pytest.raises(KeyboardInterrupt):
        esvit.train("digits_view", on_step=stop(signal.SIGINT), **settings)
    with pytest.raises(SystemExit) as exit_info:
        esvit.train("digits_view", on_step=stop(signal.SIGTERM), **settings)
    assert exit_info.value.code == 75
    esvit.train("digits_view", **settings)
    names = files.names(Store(tmp_path / "run/checkpoints"))
    assert [name[5:13] for name in names] == ["00000000", "00000001", "00000003", "00000004"]


def test_a_config_is_a_name_a_file_keys_or_itself_and_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 3\nschedule: {epochs: 6}\n")
    given = {"output": tmp_path, "data": {"stream": {"shards": tmp_path}}}
    config = resolved(
        ["swin_tiny_w7", tmp_path / "mine.yaml", given], {"schedule.base_lr": 1e-3, "optim": {"beta1": 0}}
    )
    assert (config.seed, config.output, config.data.stream.shards) == (3, str(tmp_path), str(tmp_path))
    assert (config.schedule.epochs, config.schedule.base_lr, config.optim.beta1) == (6, 1e-3, 0)
    assert config.model.backbone.name == "swin_tiny" and config.data.executor == "dali"
    assert resolved(config) == config
    assert resolved(config, {"schedule": {"epochs": 3}}).schedule.warmup_epochs == 1  # its default, not that of before
    with pytest.raises(ConfigError, match=r"did you mean 'schedule\.epochs'"):
        resolved(config, {"schedule.epoch": 3})


def test_a_run_with_a_loss_of_ones_own_resumes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice_the_loss.py").write_text(LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    losses: dict[str, list[float]] = {}

    def record(name: str) -> Any:
        return lambda event: losses.setdefault(name, []).append(event.scalars["loss"].item())

    twice = {"loss.name": "twice_the_loss:Twice", "checkpoint.every_steps": 1}
    esvit.train("digits_view", on_step=record("ours"), **{**settings, "output": tmp_path / "ours"})
    esvit.train("digits_view", on_step=record("twice"), **{**settings, **twice})
    assert losses["twice"][0] == pytest.approx(2 * losses["ours"][0])
    for late in ("step-00000003", "step-00000004"):
        (tmp_path / f"run/checkpoints/{late}.json").unlink()
    esvit.train("digits_view", on_step=record("resumed"), **{**settings, **twice})
    assert losses["resumed"] == losses["twice"][2:]
