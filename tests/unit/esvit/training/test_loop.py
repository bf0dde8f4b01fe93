"""The loop around the step: what a run repeats, what it saves, and that what it saves is safe before it ends."""

import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esvit.checkpoints import files
from esvit.guards import DivergedError
from esvit.step import train_step
from esvit.training import loop
from esvit.training.loop import train
from pipeline.console.ending import EXIT_RETRY
from pipeline.loader.ahead import Ahead
from pipeline.store import Store, StoreError
from support.tiny_runs import checkpoints, tiny_run


@pytest.fixture
def before_each_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Have a function called with the state and the views of each step."""

    def install(function: Callable[..., None]) -> None:
        def watched_step(state: Any, student: Any, views: Any, *arguments: Any, **options: Any) -> Any:
            function(state, views)
            return train_step(state, student, views, *arguments, **options)

        monkeypatch.setattr(loop, "train_step", watched_step)

    return install


def in_the_way(output: Path, step: int) -> None:
    """A folder where the checkpoint of `step` would go: it cannot be written."""
    (output / f"checkpoints/step-{step:08d}.pt/folder").mkdir(parents=True)


def test_a_run_whose_last_checkpoint_is_not_written_does_not_end_well(tiny_shards: str, tmp_path: Path) -> None:
    in_the_way(tmp_path, 4)
    with pytest.raises(StoreError, match=r"cannot write .*step-00000004\.pt"):
        train(tiny_run(tiny_shards, tmp_path))


def test_sigterm_waits_for_its_checkpoint(
    tiny_shards: str, tmp_path: Path, before_each_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before_each_step(lambda _state, _views: signal.raise_signal(signal.SIGTERM))
    config = tiny_run(tiny_shards, tmp_path / "run", {"checkpoint": {"every_steps": 4}})
    assert train(config) == EXIT_RETRY
    said = capsys.readouterr().out
    assert said.index("saved") < said.index("step-00000001.pt") < said.index("stopped by SIGTERM")
    assert [state["step"] for state in checkpoints(config)] == [0, 1]
    in_the_way(tmp_path / "other", 1)
    with pytest.raises(StoreError, match=r"cannot write .*step-00000001\.pt"):
        train(tiny_run(tiny_shards, tmp_path / "other", {"checkpoint": {"every_steps": 4}}))


@pytest.mark.parametrize("every_steps", [1, 4])
def test_sigterm_does_not_wait_for_a_batch_and_saves_what_was_learned(
    tiny_shards: str,
    tmp_path: Path,
    every_steps: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batches: list[Any] = []
    get = Ahead.get

    def dry_up(ahead: Any, timeout_s: float) -> Any:
        if batches:
            signal.raise_signal(signal.SIGTERM)
            raise queue.Empty
        batches.append(get(ahead, timeout_s))
        return batches[0]

    monkeypatch.setattr(Ahead, "get", dry_up)
    config = tiny_run(tiny_shards, tmp_path, {"checkpoint": {"every_steps": every_steps}})
    assert train(config) == EXIT_RETRY
    assert "stopped by SIGTERM after the checkpoint of step 1" in capsys.readouterr().out
    assert [(state["step"], state["loader"]["position"]) for state in checkpoints(config)] == [(0, 0), (1, 1)]


def test_checkpoints_in_a_store_that_replaces_what_is_there_are_told(
    tiny_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{tmp_path.name}"
    monkeypatch.setattr(Store, "put_new", lambda store, name, source: store.put(name, source) is None)
    schedule = {"epochs": 1, "epoch_steps": 1}
    assert train(tiny_run(tiny_shards, tmp_path, {"schedule": schedule, "checkpoint": {"url": url}})) == 0
    said = capsys.readouterr().out
    assert f"caution: {url} replaces objects that exist (it ignores If-None-Match), so it does not keep two" in said


def test_the_seed_makes_the_networks(tiny_shards: str, tmp_path: Path) -> None:
    def first(name: str, seed: int) -> torch.Tensor:
        config = tiny_run(tiny_shards, tmp_path / name, {"seed": seed, "schedule": {"epochs": 1, "epoch_steps": 1}})
        assert train(config) == 0
        return checkpoints(config)[0]["student"]["backbone.patch_embed.proj.weight"]

    assert torch.equal(first("a", 1), first("b", 1)) and not torch.equal(first("a", 1), first("c", 2))


def test_each_step_has_draws_of_its_own_which_a_resume_repeats(
    tiny_shards: str, tmp_path: Path, before_each_step: Any
) -> None:
    seeds: dict[int, list[int]] = {}
    before_each_step(lambda state, _views: seeds.setdefault(state.step, []).append(torch.initial_seed()))
    config = tiny_run(tiny_shards, tmp_path / "run")
    assert train(config) == 0
    for step in (3, 4):
        for path in (tmp_path / "run/checkpoints").glob(f"step-{step:08d}.*"):
            path.unlink()
    assert train(config) == 0
    assert seeds == {step: [seeds[step][0]] * (1 + (step >= 2)) for step in range(4)}
    assert len({tuple(drawn) for drawn in seeds.values()}) == 4


def test_the_draws_of_a_step_belong_to_seed_step_and_rank() -> None:
    seeds = [loop._step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1, 300) for rank in (0, 7)]
    assert len(set(seeds)) == len(seeds)


def test_the_state_before_a_step_that_is_not_finite_is_saved_and_replays_it(
    tiny_shards: str, tmp_path: Path, before_each_step: Any
) -> None:
    """Seen two steps later, at the next logged one."""

    def poison(state: Any, views: list[torch.Tensor]) -> None:
        if state.step == 1:
            views[1][0, 0, 0, 0, 0] = float("nan")

    assert train(tiny_run(tiny_shards, tmp_path / "healthy")) == 0
    expected = files.read(Store(tmp_path / "healthy/checkpoints"), "step-00000001.pt")
    before_each_step(poison)
    late = {"checkpoint": {"every_steps": 99}, "metrics": {"log_every_steps": 4}}
    config = tiny_run(tiny_shards, tmp_path / "sick", late)
    with pytest.raises(DivergedError, match=r"of step 2 is not finite.* checkpoint\.url=(\S*/failed)"):
        train(config)
    saved = files.read(Store(tmp_path / "sick/failed"), "step-00000001.pt")
    for part in ("student", "teacher", "loss"):
        assert all(torch.equal(saved[part][name], tensor) for name, tensor in expected[part].items()), part
    assert saved["step"] == saved["loader"]["position"] == 1
    replay = {"checkpoint": {"url": f"{tmp_path}/sick/failed"}, "metrics": {"log_every_steps": 1}}
    with pytest.raises(DivergedError, match="of step 2 is not finite"):
        train(tiny_run(tiny_shards, tmp_path / "sick", replay))
