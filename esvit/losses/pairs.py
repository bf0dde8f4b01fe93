"""Pairs of student and teacher rows, and their weights: view and region task as arguments of the fused loss."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from esvit.losses.fused import Prototypes


class Predictions(Protocol):
    """The outputs of a network that the loss reads, one tensor per view.

    Rows [B, C] and [B, T, C] of length 1, the prototypes that turn rows into logits, and the regions [B, T, D].
    """

    @property
    def view_rows(self) -> list[Tensor]: ...
    @property
    def view_prototypes(self) -> Prototypes: ...
    @property
    def region_rows(self) -> list[Tensor] | None: ...
    @property
    def region_prototypes(self) -> Prototypes | None: ...
    @property
    def regions(self) -> list[Tensor] | None: ...


@dataclass(frozen=True)
class Task:
    """The arguments of `fused_cross_entropy`: rows [B, R, C] and [B, R', C], match [B, R, Q], weights [R, Q]."""

    student_rows: Tensor
    student_prototypes: Prototypes
    teacher_rows: Tensor
    teacher_prototypes: Prototypes
    match: Tensor
    weights: Tensor


def view_task(student: Predictions, teacher: Predictions) -> Task:
    """One row per view; its targets are all teacher views except the view itself."""
    teacher_rows = torch.stack(teacher.view_rows, dim=1)
    student_rows = torch.stack(student.view_rows, dim=1)
    batch, num_teachers = teacher_rows.shape[:2]
    match = torch.arange(num_teachers, device=teacher_rows.device).expand(batch, student_rows.shape[1], -1)
    weights = _pair_weights((1,) * student_rows.shape[1], num_teachers, batch, teacher_rows.device)
    return Task(student_rows, student.view_prototypes, teacher_rows, teacher.view_prototypes, match, weights)


def region_task(student: Predictions, teacher: Predictions) -> Task:
    """One row per region; its targets are its best matches, one in each teacher view except the region's own."""
    assert student.region_rows is not None and student.region_prototypes is not None and student.regions is not None
    assert teacher.region_rows is not None and teacher.region_prototypes is not None and teacher.regions is not None
    teacher_rows = torch.cat(teacher.region_rows, dim=1)
    regions = torch.cat(student.regions, dim=1)
    first, matches = 0, []
    for candidates in teacher.regions:
        matches.append(best_match(regions, candidates) + first)
        first += candidates.shape[1]
    num_tokens = tuple(view.shape[1] for view in student.regions)
    return Task(
        torch.cat(student.region_rows, dim=1),
        student.region_prototypes,
        teacher_rows,
        teacher.region_prototypes,
        torch.stack(matches, dim=-1),
        _pair_weights(num_tokens, len(matches), len(teacher_rows), teacher_rows.device),
    )


@torch.no_grad()
def best_match(regions: Tensor, candidates: Tensor) -> Tensor:
    """Index [B, T] of the candidate [B, T', D] nearest in angle to each region [B, T, D], image by image."""
    with torch.autocast(regions.device.type, enabled=False):  # near ties need fp32
        similarity = F.normalize(regions.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).mT
    return similarity.argmax(dim=-1)


@lru_cache(maxsize=64)  # cached: made on the host once, not at every step
def _pair_weights(num_tokens: tuple[int, ...], num_teachers: int, batch: int, device: torch.device) -> Tensor:
    """Weights [R, Q] of a mean over pairs of views, images and tokens of the student view; no view predicts itself."""
    num_pairs = num_teachers * (len(num_tokens) - 1)
    assert num_pairs, "a loss needs a teacher view and another student view"
    rows = [
        [(v != q) / (num_pairs * batch * tokens) for q in range(num_teachers)]
        for v, tokens in enumerate(num_tokens)
        for _ in range(tokens)
    ]
    with torch.inference_mode(False):
        return torch.tensor(rows, device=device)
