"""An independent reference of EsViT's training: plain loops in double precision, from the description of the method
alone.

The tests compare the training step with this reference. It imports nothing from `esvit`: the caller passes the forward
of the backbone, which has its own tests. Where the description leaves a choice, it follows the authors' implementation:
gradients are clipped per tensor, 2-D tables are decayed, the loss is a mean over pairs of views.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Tokens = Callable[[Parameters, Tensor], Tensor]
"""The backbone: its parameters by name and images [B, 3, H, W] give its last tokens [B, T, D]."""


@dataclass(frozen=True)
class Recipe:
    """The numbers of a run; the defaults are the paper's."""

    epochs: int
    steps_per_epoch: int
    batch: int
    accumulation: int = 1
    base_lr: float = 5e-4  # per 256 images
    min_lr: float = 1e-6
    warmup_epochs: int = 10
    weight_decay: tuple[float, float] = (0.04, 0.4)
    momentum: float = 0.996
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    temperature_warmup_epochs: int = 30
    student_temperature: float = 0.1
    region_weight: float = 0.5
    region_start_epoch: int = 0
    region_warmup_epochs: int = 0
    center_momentum: float = 0.9
    clip_norm: float = 3.0
    clip: str = "per_tensor"
    frozen_epochs: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def cosine(start: float, end: float, num_steps: int) -> list[float]:
    """Half a cosine, one value per step."""
    return [end + 0.5 * (start - end) * (1 + np.cos(np.pi * step / num_steps)) for step in range(num_steps)]


def learning_rates(recipe: Recipe) -> list[float]:
    """Linear from 0 to the peak, then a cosine; one value per step."""
    peak = recipe.base_lr * recipe.batch / 256
    warmup = recipe.warmup_epochs * recipe.steps_per_epoch
    rest = recipe.epochs * recipe.steps_per_epoch - warmup
    return [*np.linspace(0, peak, warmup).tolist(), *cosine(peak, recipe.min_lr, rest)]


def temperatures(recipe: Recipe) -> list[float]:
    """Teacher temperatures; one value per step, constant within an epoch."""
    first, last = recipe.teacher_temperature
    warmup = np.linspace(first, last, recipe.temperature_warmup_epochs).tolist()
    by_epoch = [*warmup, *[last] * recipe.epochs][: recipe.epochs]
    return [by_epoch[epoch] for epoch in range(recipe.epochs) for _ in range(recipe.steps_per_epoch)]


def region_weights(recipe: Recipe) -> list[float]:
    """The share of the region task in the loss: nothing, then linear, then the whole; one value per step."""
    warmup = np.linspace(0, recipe.region_weight, recipe.region_warmup_epochs * recipe.steps_per_epoch).tolist()
    num_steps = recipe.epochs * recipe.steps_per_epoch
    begun = [*warmup, *[recipe.region_weight] * num_steps]
    return [*[0.0] * (recipe.region_start_epoch * recipe.steps_per_epoch), *begun][:num_steps]


def head(parameters: Parameters, name: str, rows: Tensor) -> Tensor:
    """Logits [..., K] of rows [..., D]."""
    layers = sorted({key.rpartition(".")[0] for key in parameters if key.startswith(f"{name}.mlp.")})
    for layer in layers:
        rows = rows @ parameters[f"{layer}.weight"].T + parameters[f"{layer}.bias"]
        if layer != layers[-1]:
            rows = torch.nn.functional.gelu(rows)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    directions = parameters[f"{name}.last_layer.weight_v"]
    prototypes = parameters[f"{name}.last_layer.weight_g"] * directions / directions.norm(dim=1, keepdim=True)
    return rows @ prototypes.T


def cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean over the rows [..., K] of -sum_k p_k log softmax(s / temperature)_k."""
    return -(targets * torch.log_softmax(logits / temperature, dim=-1)).sum(dim=-1).mean()


def best_matches(regions: Tensor, candidates: Tensor) -> list[int]:
    """For each row of `regions` [T, D] the row of `candidates` [T', D] at the smallest angle."""
    cosines = torch.nn.functional.cosine_similarity(regions[:, None], candidates[None], dim=-1)
    return [int(row.argmax()) for row in cosines]


class PlainTraining:
    """A student, its teacher, two centres, AdamW. `state` has the names and values that a run starts from."""

    def __init__(self, recipe: Recipe, state: dict[str, dict[str, Tensor]], tokens: Tokens) -> None:
        self.recipe, self.step_number, self._tokens = recipe, 0, tokens
        self.student = {name: value.double().requires_grad_() for name, value in state["student"].items()}
        self.teacher = {name: value.double() for name, value in state["teacher"].items()}
        self.centers = {name: value.double() for name, value in state["loss"].items()}
        self.moments: dict[str, dict[str, Any]] = {}
        self._center_before: Tensor | None = None

    def step(
        self, views: Sequence[Tensor], num_global: int, blend: tuple[float, Sequence[Tensor]] | None = None
    ) -> Any:
        """Train on views [B, 3, H, W], the teacher on the first `num_global`; returns the scalars.

        With `blend`, (w, blended views), the student sees those, and the loss is w times that against the teacher of
        each image and 1 - w times that against the teacher of its mirror in the batch.
        """
        recipe, step = self.recipe, self.step_number
        temperature = temperatures(recipe)[step]
        scalars: dict[str, Any] = {}
        spreads, logits_of_teachers = [], []
        for images in np.split(np.arange(recipe.batch), recipe.accumulation):
            seen = [view[images].double() for view in (blend[1] if blend else views)]
            teacher_views = [view[images].double() for view in views[:num_global]]
            shares = [(1.0, teacher_views)]
            if blend:
                shares = [(blend[0], teacher_views), (1 - blend[0], [view.flip(0) for view in teacher_views])]
            predictions = self._outputs(self.student, seen)
            for share, watched in shares:
                with torch.no_grad():
                    targets = self._outputs(self.teacher, watched)
                logits_of_teachers.append(targets)
                spreads.append(spread(targets["tokens"]))
                for name, value in self._terms(predictions, targets, temperature).items():
                    scalars[name] = scalars.get(name, 0.0) + share / recipe.accumulation * value
        scalars["gradient_norm"] = self._descend(scalars["loss"])
        for name in filter(self._has_begun, self.centers):
            self._move_center(name, logits_of_teachers)
        momentum = cosine(recipe.momentum, 1.0, recipe.epochs * recipe.steps_per_epoch)[step]
        for name in filter(self._has_begun, self.teacher):
            self.teacher[name] = momentum * self.teacher[name] + (1 - momentum) * self.student[name].detach()
        scalars["feature_std"] = sum(spreads) / len(spreads)
        scalars["center_drift"] = self._drift() / temperature
        self.step_number += 1
        return {name: float(torch.as_tensor(value).detach()) for name, value in scalars.items()}

    def _has_begun(self, name: str) -> bool:
        """Whether what is called `name` takes part in this step: region head and region centre wait for their phase."""
        begin = self.recipe.region_start_epoch * self.recipe.steps_per_epoch
        return self.step_number >= begin or not name.startswith("region_")

    def _outputs(self, parameters: Parameters, views: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Of each view: its tokens [B, T, D], view logits [B, K] and, in their phase, region logits [B, T, K]."""
        tokens = [self._tokens(parameters, view) for view in views]
        found = {"tokens": tokens, "view": [head(parameters, "view_head", z.mean(dim=1)) for z in tokens]}
        if "region_center.center" in self.centers and self._has_begun("region_head"):
            found["region"] = [head(parameters, "region_head", z) for z in tokens]
        return found

    def _terms(self, student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]], temperature: float) -> Any:
        """The loss, its terms, and how evenly the teacher's view assignments use the prototypes."""
        pairs = [(q, v) for q in range(len(teacher["view"])) for v in range(len(student["view"])) if q != v]
        view_targets = self._targets("view", teacher, temperature)
        view = sum(self._cross_entropy(view_targets[q], student["view"][v]) for q, v in pairs) / len(pairs)
        mean = torch.cat(view_targets).mean(dim=0)
        terms = {"view": view, "teacher_entropy": -(mean * mean.log()).sum() / np.log(len(mean))}
        if "region" not in student:
            return {"loss": view, **terms}
        region_targets, region = self._targets("region", teacher, temperature), torch.zeros(())
        for q, v in pairs:
            for b in range(len(view_targets[0])):
                matches = best_matches(student["tokens"][v][b].detach(), teacher["tokens"][q][b])
                loss = self._cross_entropy(region_targets[q][b, matches], student["region"][v][b])
                region = region + loss / len(view_targets[0]) / len(pairs)
        weight = region_weights(self.recipe)[self.step_number]
        return {"loss": (1 - weight) * view + weight * region, "region": region, **terms}

    def _cross_entropy(self, targets: Tensor, logits: Tensor) -> Tensor:
        return cross_entropy(targets, logits, self.recipe.student_temperature)

    def _targets(self, task: str, teacher: dict[str, list[Tensor]], temperature: float) -> list[Tensor]:
        center = self.centers[f"{task}_center.center"]
        return [torch.softmax((logits - center) / temperature, dim=-1) for logits in teacher[task]]

    def _move_center(self, name: str, teachers: Sequence[dict[str, list[Tensor]]]) -> None:
        task, momentum = name.partition("_")[0], self.recipe.center_momentum
        rows = torch.cat([logits.flatten(0, -2) for teacher in teachers for logits in teacher[task]])
        self.centers[name] = momentum * self.centers[name] + (1 - momentum) * rows.mean(dim=0)

    def _drift(self) -> float:
        """Root mean square move of the centres since the step before."""
        center = torch.cat(list(self.centers.values()))
        before, self._center_before = self._center_before, center
        return 0.0 if before is None else float((center - before).square().mean().sqrt())

    def _descend(self, loss: Tensor) -> float:
        """Clip gradients, drop the prototypes' in the first epochs, make a step. Returns the norm of all gradients."""
        recipe, epoch = self.recipe, self.step_number // self.recipe.steps_per_epoch
        trained = {name: value for name, value in self.student.items() if self._has_begun(name)}
        gradients = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
        norms = {name: float(gradient.square().sum().sqrt()) for name, gradient in gradients.items()}
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        for name, gradient in gradients.items():
            norm = total if recipe.clip == "global" else norms[name]
            clipped = gradient * (recipe.clip_norm / norm if norm > recipe.clip_norm else 1.0)
            if epoch >= recipe.frozen_epochs or ".last_layer." not in name:
                self._adamw(name, clipped)
        return total

    def _adamw(self, name: str, gradient: Tensor) -> None:
        recipe, (beta1, beta2) = self.recipe, self.recipe.betas
        lr = learning_rates(recipe)[self.step_number]
        decay = cosine(*recipe.weight_decay, recipe.epochs * recipe.steps_per_epoch)[self.step_number]
        value = self.student[name].detach()
        moments = self.moments.setdefault(name, {"step": 0, "exp_avg": 0 * value, "exp_avg_sq": 0 * value})
        moments["step"] += 1
        moments["exp_avg"] = beta1 * moments["exp_avg"] + (1 - beta1) * gradient
        moments["exp_avg_sq"] = beta2 * moments["exp_avg_sq"] + (1 - beta2) * gradient**2
        mean = moments["exp_avg"] / (1 - beta1 ** moments["step"])
        square = moments["exp_avg_sq"] / (1 - beta2 ** moments["step"])
        if value.ndim > 1:
            value = value - lr * decay * value
        self.student[name] = (value - lr * mean / (square.sqrt() + recipe.eps)).requires_grad_()


def spread(tokens: Sequence[Tensor]) -> float:
    """Root of the variance of the views' features, each of length 1, over all images and views."""
    features = torch.cat([z.mean(dim=1) for z in tokens])
    features = features / features.norm(dim=1, keepdim=True)
    return float((features - features.mean(dim=0)).square().mean(dim=0).sum().sqrt())
