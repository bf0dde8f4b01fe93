"""Before `schedule.region_start_epoch` a run is a view-only run, in numbers and in cost; then regions start fresh."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from esvit.checkpoints import files
from esvit.step import train_step
from esvit.training import loop
from esvit.training.loop import TrainConfig, train
from pipeline import config as configuration
from pipeline.errors import UserError
from pipeline.store import Store
from support.forking import Ranks
from support.tiny_runs import checkpoints, forget_after, log, tiny_run
from support.training import environment

LATE = {"schedule": {"epochs": 3, "region_start_epoch": 1}}  # two steps of views, four with regions
VIEW_ONLY = {"schedule": {"epochs": 3}, "loss": {"region_weight": 0.0}}
BEGIN = 2


@pytest.fixture(scope="module")
def late(tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run with `LATE`, at its end. Tests read it, or copy its folder."""
    config = tiny_run(tiny_shards, tmp_path_factory.mktemp("late"), LATE)
    assert train(config) == 0
    return config


@pytest.fixture(scope="module")
def views(tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run with `VIEW_ONLY`, at its end."""
    config = tiny_run(tiny_shards, tmp_path_factory.mktemp("views"), VIEW_ONLY)
    assert train(config) == 0
    return config


def of_regions(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Region heads, centre and moments of a checkpoint."""
    parts = {name: state[name] for name in ("student", "teacher", "loss")}
    parts |= {f"moments of {name}": moments for name, moments in state["optimizer"].items()}
    names = [(part, name) for part, tensors in parts.items() for name in tensors]
    return {f"{p}.{n}": parts[p][n] for p, n in names if "region_head." in f"{p}.{n}" or n.startswith("region_center.")}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for part in ("student", "teacher", "loss", "optimizer"):
        assert ours[part].keys() == theirs[part].keys(), part
        for name, found in ours[part].items():
            tensors = found if isinstance(found, dict) else {"": found}
            others = theirs[part][name] if isinstance(found, dict) else {"": theirs[part][name]}
            assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items()), f"{part} {name}"


def test_until_it_begins_region_head_moments_and_centre_stay_as_they_were_made(late: TrainConfig) -> None:
    first, *states = checkpoints(late)
    for state in states[:BEGIN]:
        regions = of_regions(state)
        assert regions.keys() == of_regions(first).keys()
        assert all(torch.equal(tensor, regions[name]) for name, tensor in of_regions(first).items())
    begun = of_regions(states[BEGIN])
    assert {float(tensor) for name, tensor in begun.items() if name.endswith(".step")} == {1.0}
    assert any(name.startswith("moments of region_head.last_layer") for name in begun)
    assert begun["loss.region_center.center"].abs().sum() > 0
    assert ["region" in record for record in log(late)] == [False] * BEGIN + [True] * 4


def test_the_phase_of_views_is_a_run_of_views_alone(late: TrainConfig, views: TrainConfig) -> None:
    expected = checkpoints(views)[BEGIN]
    for part, tensors in checkpoints(late)[BEGIN].items():
        if part in ("student", "teacher", "loss"):
            ours = {name: tensor for name, tensor in tensors.items() if not name.startswith("region_")}
            assert ours.keys() == expected[part].keys()
            assert all(torch.equal(tensor, ours[name]) for name, tensor in expected[part].items())
    for ours, theirs in zip(log(late)[:BEGIN], log(views), strict=False):
        assert all(ours[name] == theirs[name] for name in ("loss", "view", "gradient_norm", "feature_std", "lr"))


def test_the_phase_of_views_computes_what_a_run_of_views_computes(
    tiny_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, foreach, flops, moved = train_step, torch._foreach_lerp_, list[int](), list[int]()

    def counted_step(*arguments: Any, **options: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = step(*arguments, **options)
        flops.append(counter.get_total_flops())
        return result

    def counted_move(tensors: Any, *rest: Any) -> Any:
        moved.append(len(tensors))
        return foreach(tensors, *rest)

    monkeypatch.setattr(loop, "train_step", counted_step)
    monkeypatch.setattr(torch, "_foreach_lerp_", counted_move)
    assert train(tiny_run(tiny_shards, tmp_path / "late", LATE)) == 0
    assert train(tiny_run(tiny_shards, tmp_path / "alone", VIEW_ONLY)) == 0
    for counts in (flops, moved):
        late, alone = counts[:6], counts[6:]
        assert late[:BEGIN] == alone[:BEGIN] and min(late[BEGIN:]) > max(alone), counts


@pytest.mark.parametrize("step", [0, 1, 2, 3, 5])
def test_a_resume_on_either_side_of_the_beginning_is_exact(
    step: int, late: TrainConfig, tiny_shards: str, tmp_path: Path
) -> None:
    whole = checkpoints(late)
    config = tiny_run(tiny_shards, tmp_path / "run", LATE)
    shutil.copytree(late.output, config.output)
    forget_after(config, step)
    assert train(config) == 0
    for ours, theirs in zip(checkpoints(config), whole, strict=True):
        assert_same(ours, theirs)


def test_regions_of_another_run_are_not_taken_into_a_phase_that_lies_ahead(
    late: TrainConfig, tiny_shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tiny_run(tiny_shards, tmp_path / "trained")
    assert train(trained) == 0
    start = {"checkpoint": {"start_from": f"{tmp_path}/trained/checkpoints"}}
    config = tiny_run(tiny_shards, tmp_path / "late", LATE | start)
    capsys.readouterr()
    assert train(config) == 0
    assert "; new: loss.region_center, student.region_head, teacher.region_head" in capsys.readouterr().out
    ours, theirs = (of_regions(checkpoints(run)[BEGIN]) for run in (config, late))
    assert ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_two_ranks_cross_the_beginning_as_one_does(late: TrainConfig, tiny_shards: str, tmp_path: Path) -> None:
    both = tiny_run(tiny_shards, tmp_path / "both", LATE)
    configuration.save(both, tmp_path / "both.yaml")
    with Ranks(["esvit-train", "--config", str(tmp_path / "both.yaml")], environment(), num_ranks=2) as ranks:
        done = ranks.end()
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(checkpoints(both), checkpoints(late), strict=True):
        assert of_regions(ours).keys() == of_regions(theirs).keys()
        for part in ("student", "teacher", "loss"):
            for name, tensor in ours[part].items():
                torch.testing.assert_close(tensor, theirs[part][name], rtol=1e-3, atol=1e-4)


def test_a_continued_run_has_the_schedules_and_the_order_of_its_epoch(
    late: TrainConfig, views: TrainConfig, tiny_shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Views alone for an epoch, then a run of its own with regions: step by step the run that does both."""
    start = {"start_from": f"{views.output}/checkpoints/step-0000000{BEGIN}.pt", "start_epoch": 1}
    config = tiny_run(tiny_shards, tmp_path / "continued", {**LATE, "checkpoint": start})
    capsys.readouterr()
    assert train(config) == 0
    assert "starting from" in (said := capsys.readouterr().out) and "at epoch 1" in said
    store = Store(tmp_path / "continued/checkpoints")
    assert files.names(store)[0] == f"step-0000000{BEGIN}.pt"
    for ours, theirs in zip(checkpoints(config), checkpoints(late)[BEGIN:], strict=True):
        assert_same(ours, theirs)
        assert (ours["step"], ours["loader"]) == (theirs["step"], theirs["loader"])
    steps = [{**record, "images_per_second": 0, "data_wait_share": 0, "center_drift": 0} for record in log(config)]
    expected = [{**r, "images_per_second": 0, "data_wait_share": 0, "center_drift": 0} for r in log(late)[BEGIN:]]
    assert steps == expected


def test_prototypes_whose_length_stays_leave_the_moments_of_a_run_that_trained_it(
    views: TrainConfig, tiny_shards: str, tmp_path: Path
) -> None:
    head = {"num_prototypes": 24, "hidden": 64, "bottleneck": 16, "norm_last_layer": True}
    backbone = {"name": "swin_nano", "embed_dim": 16, "num_heads": [2, 2]}
    start = {"start_from": f"{views.output}/checkpoints/step-00000004.pt", "start_epoch": 2}
    config = tiny_run(
        tiny_shards, tmp_path / "run", {**LATE, "checkpoint": start, "model": {"backbone": backbone, "head": head}}
    )
    assert train(config) == 0
    first, *_, last = checkpoints(config)
    name = "view_head.last_layer.weight_g"
    assert torch.equal(first["student"][name], last["student"][name]) and name not in last["optimizer"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"start_epoch": 1}, "start_epoch needs start_from"),
        ({"start_from": "x", "start_epoch": 3}, r"checkpoint.start_epoch \(3\) is not before the end .*epochs \(3\)"),
    ],
)
def test_a_start_epoch_that_leads_nowhere_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises((UserError, ValueError), match=sentence):
        tiny_run("shards", Path("run"), LATE | {"checkpoint": changes})


def test_a_resume_of_a_run_that_never_had_regions_is_refused_once_they_have_begun(
    views: TrainConfig, tiny_shards: str, tmp_path: Path
) -> None:
    shutil.copytree(views.output, tmp_path / "run")
    with pytest.raises(UserError, match=r"the checkpoint lacks student\.region_head\..*, which this network has"):
        train(tiny_run(tiny_shards, tmp_path / "run", LATE))
