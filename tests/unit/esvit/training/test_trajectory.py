"""Whole runs, number by number, against a plain implementation of the method, and against what it once gave."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from esvit.models import build_backbone
from esvit.training.loop import TrainConfig, train
from pipeline.augment import MultiCrop
from pipeline.loader import open_loader
from pipeline.stream import open_training_stream
from support.plain_training import Parameters, PlainTraining, Recipe
from support.tiny_runs import BATCH, NUM_GLOBAL, checkpoints, log, tiny_run

GOLDEN = Path(__file__).parents[3] / "golden/trajectory.json"
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
# The frozen epoch, both warm-ups and the cosines after them in ten steps. A large eps: where a gradient is 0 but for
# rounding (of the bias of the keys, say), AdamW would make a step out of the rounding.
RECIPE = Recipe(5, 2, BATCH, base_lr=0.1, warmup_epochs=2, temperature_warmup_epochs=3, momentum=0.8, eps=1e-6)
SHORT = dataclasses.replace(RECIPE, epochs=2, warmup_epochs=1, temperature_warmup_epochs=2)

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what it changes in the recipe, and other settings
    "in two parts": ({"accumulation": 2}, {"accumulation": 2}),
    "clipped all together": ({"clip": "global"}, {"optim": {"clip": "global"}}),
    "never frozen": ({"frozen_epochs": 0}, {"optim": {"freeze_last_layer_epochs": 0}}),
    "view only": ({"region_weight": 0.0}, {"loss": {"region_weight": 0.0}}),
    "regions late and slowly": (
        {"epochs": 4, "warmup_epochs": 2, "region_start_epoch": 1, "region_warmup_epochs": 2},
        {"schedule": {"region_start_epoch": 1, "region_warmup_epochs": 2}},
    ),
    "other weights": (
        {"region_weight": 0.8, "student_temperature": 0.2, "center_momentum": 0.5, "clip_norm": 0.5},
        {
            "loss": {"region_weight": 0.8, "student_temperature": 0.2, "center_momentum": 0.5},
            "optim": {"clip_norm": 0.5},
        },
    ),
    "blended": ({}, {"mixup": {"alpha": 1.0, "cutmix_alpha": 1.0}}),
    "blended in two parts": ({"accumulation": 2}, {"accumulation": 2, "mixup": {"alpha": 1.0}}),
}


def settings(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """Of the product's run. What `recipe` has from the paper is left to the product's own defaults."""
    schedule = {
        "epochs": recipe.epochs,
        "epoch_steps": recipe.steps_per_epoch,
        "base_lr": recipe.base_lr,
        "warmup_epochs": recipe.warmup_epochs,
        "teacher_momentum": recipe.momentum,
        "warmup_teacher_temperature_epochs": recipe.temperature_warmup_epochs,
    }
    return {
        **changes,
        "schedule": schedule | changes.get("schedule", {}),
        "optim": {"eps": recipe.eps} | changes.get("optim", {}),
    }


def batches(config: TrainConfig) -> Iterator[list[Tensor]]:
    """The views of each step, [V, B, 3, H, W] a size."""
    stream = open_training_stream(config.data.stream, config.seed, BATCH)
    with open_loader(stream, MultiCrop(config.augment, config.seed), config.data, torch.device("cpu")) as loader:
        for batch in loader.forever():
            yield batch.views


def witness(recipe: Recipe, config: TrainConfig, start: dict[str, Any]) -> Iterator[tuple[PlainTraining, Any]]:
    """The plain training and its scalars, step by step."""
    backbone = build_backbone(config.model.backbone, drop_path=False).double()

    def tokens(parameters: Parameters, images: Tensor) -> Tensor:
        own = {name.removeprefix("backbone."): p for name, p in parameters.items() if name.startswith("backbone.")}
        return functional_call(backbone, own, (images,)).regions

    plain = PlainTraining(recipe, start, tokens)
    for step, groups in zip(range(recipe.epochs * recipe.steps_per_epoch), batches(config), strict=False):
        blend, blended = config.mixup.blend(config.seed, step), None
        if blend:
            parts = zip(*(group.chunk(recipe.accumulation, dim=1) for group in groups), strict=True)
            groups_blended = map(torch.cat, zip(*(blend(list(part)) for part in parts), strict=True), [1, 1])
            blended = blend.weight, [view for group in groups_blended for view in group]
        yield plain, plain.step([view for group in groups for view in group], NUM_GLOBAL, blended)


def headed(name: str) -> Callable[[str], str]:
    """Messages that begin with the name of what differs."""
    return lambda text: f"{name}: {text}"


def assert_equal(plain: PlainTraining, expected: dict[str, float], state: dict[str, Any], record: Any) -> None:
    """All that the product's step has left is what the plain one has."""
    where = f"step {record['step']}"
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, rel=1e-5, abs=1e-5), f"{where}: {name}"
    ours = {"student": plain.student, "teacher": plain.teacher, "loss": plain.centers}
    theirs = {name: state[name] for name in ours}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        ours[moment] = {name: torch.as_tensor(moments[moment]) for name, moments in plain.moments.items()}
        theirs[moment] = {name: moments[moment] for name, moments in state["optimizer"].items()}
    for part, tensors in ours.items():
        assert tensors.keys() == theirs[part].keys(), f"{where}: {part}"
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                theirs[part][name].double(),
                tensor.detach().double(),
                **TOLERANCE,
                msg=headed(f"{where}: {part} {name}"),
            )


def follow(recipe: Recipe, shards: str, output: Path, changes: dict[str, Any]) -> list[dict[str, float]]:
    """Run the product and the plain training side by side; returns the numbers of each step, summed up."""
    config = tiny_run(shards, output, settings(recipe, changes))
    assert train(config) == 0
    states, records, numbers = checkpoints(config), log(config), []
    assert len(states) - 1 == len(records) == recipe.epochs * recipe.steps_per_epoch
    following = witness(recipe, config, states[0])
    for state, record, (plain, expected) in zip(states[1:], records, following, strict=True):
        assert_equal(plain, expected, state, record)
        numbers.append({**expected, **summary(plain)})
    return numbers


def summary(plain: PlainTraining) -> dict[str, float]:
    """The length of each part of the state."""
    student = plain.student.items()
    parts = {
        "decayed": [p for _, p in student if p.ndim > 1],
        "not decayed": [p for _, p in student if p.ndim <= 1],
        "prototypes": [p for name, p in student if ".last_layer." in name],
        "teacher": list(plain.teacher.values()),
        **{name: [center] for name, center in plain.centers.items()},
    }
    return {part: math.sqrt(sum(float(p.detach().square().sum()) for p in tensors)) for part, tensors in parts.items()}


def test_ten_steps_are_those_of_the_plain_training_and_of_the_record(tiny_shards: str, tmp_path: Path) -> None:
    numbers = follow(RECIPE, tiny_shards, tmp_path, {})
    if os.environ.get("ESVIT_WRITE_GOLDEN"):  # for a change that is meant to move the numbers
        GOLDEN.write_text(json.dumps(numbers, indent=1) + "\n")
    for step, (expected, found) in enumerate(zip(json.loads(GOLDEN.read_text()), numbers, strict=True)):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), f"step {step}"


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_those_of_the_plain_training(name: str, tiny_shards: str, tmp_path: Path) -> None:
    recipe, changes = VARIANTS[name]
    follow(dataclasses.replace(SHORT, **recipe), tiny_shards, tmp_path, changes)
