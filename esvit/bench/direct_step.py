"""Loss and update composed plainly, for `esvit.bench.direct`: Python loops over pairs of views and parameters."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

STUDENT_TEMPERATURE, CENTER_MOMENTUM = 0.1, 0.9


class Logits(Protocol):
    """Outputs with all their logits, one tensor per view: [B, K], [B, T, K], and the regions [B, T, D]."""

    @property
    def view_logits(self) -> list[Tensor]: ...
    @property
    def region_logits(self) -> list[Tensor] | None: ...
    @property
    def regions(self) -> list[Tensor] | None: ...


class DirectLoss(nn.Module):
    """The loss as the paper writes it, all logits at once, one pair of views after another; moves the centres.

    `esvit.losses` computes the same in tiles. p_q are the targets of teacher view q, s_v the logits of student view v,
    z_v and z_q the regions. The mean is over all pairs with v != q, over images and over the regions of v:

        view:   -sum_k p_q[k] * log softmax(s_v / student temperature)[k]
        region: -sum_k p_q[j(i), k] * log softmax(s_v[i] / student temperature)[k],  j(i) = argmax_j cos(z_v[i], z_q[j])

    The loss is (1 - region_weight) * view + region_weight * region; without regions, the view term alone.
    """

    view_center: Tensor
    region_center: Tensor

    def __init__(self, num_prototypes: int, region_weight: float = 0.5) -> None:
        super().__init__()
        self._region_weight = region_weight
        self.register_buffer("view_center", torch.zeros(num_prototypes))
        self.register_buffer("region_center", torch.zeros(num_prototypes))

    def forward(self, student: Logits, teacher: Logits, temperature: float) -> dict[str, Tensor]:
        """Scalars "loss", "view" and "region". The student's first views are the teacher's views, in the same order."""
        view = _term(student.view_logits, teacher.view_logits, self.view_center, temperature)
        student_logits, teacher_logits = student.region_logits, teacher.region_logits
        if student_logits is None or teacher_logits is None:
            return {"loss": view, "view": view}
        regions = (student.regions or [], teacher.regions or [])
        region = _term(student_logits, teacher_logits, self.region_center, temperature, regions)
        loss = (1 - self._region_weight) * view + self._region_weight * region
        return {"loss": loss, "view": view, "region": region}


def _term(
    student_logits: Sequence[Tensor],
    teacher_logits: Sequence[Tensor],
    center: Tensor,
    temperature: float,
    regions: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> Tensor:
    """Mean over the pairs; moves the centre. `regions` of student and teacher, if given, match the rows."""
    targets = [F.softmax((logits.float() - center) / temperature, dim=-1).detach() for logits in teacher_logits]
    predictions = [logits / STUDENT_TEMPERATURE for logits in student_logits]
    losses = []
    for q, target in enumerate(targets):
        for v, prediction in enumerate(predictions):
            if v == q:
                continue
            matched = _matched(target, regions[0][v], regions[1][q]) if regions else target
            losses.append(torch.sum(-matched * F.log_softmax(prediction.float(), dim=-1), dim=-1).mean())
    with torch.no_grad():
        mean = torch.cat([logits.flatten(0, -2) for logits in teacher_logits]).float().mean(dim=0)
        center.copy_(CENTER_MOMENTUM * center + (1 - CENTER_MOMENTUM) * mean)
    return torch.stack(losses).mean()


@torch.no_grad()
def _matched(targets: Tensor, regions: Tensor, candidates: Tensor) -> Tensor:
    """For each region [B, T, D], the target [B, T, K] of its nearest candidate [B, T', D]."""
    similarity = F.normalize(regions.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).transpose(1, 2)
    match = similarity.argmax(dim=-1, keepdim=True)
    return targets.gather(1, match.expand(-1, -1, targets.shape[-1]))


def build_direct_optimizer(student: nn.Module) -> AdamW:
    """AdamW that updates one parameter at a time; biases and other 1-D tensors have no weight decay."""
    parameters = list(student.parameters())
    groups = [{"params": [p for p in parameters if p.ndim > 1]}, {"params": [p for p in parameters if p.ndim <= 1]}]
    return AdamW(groups, lr=0.0, weight_decay=0.0, foreach=False, fused=False)


@torch.no_grad()
def clip_one_by_one(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale each gradient down to an L2 norm of at most `max_norm`."""
    for parameter in parameters:
        if parameter.grad is not None:
            scale = max_norm / (parameter.grad.norm(2) + 1e-6)
            if scale < 1:
                parameter.grad.mul_(scale)


@torch.no_grad()
def move_teacher_one_by_one(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """t <- momentum * t + (1 - momentum) * s."""
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.mul_(momentum).add_((1 - momentum) * theirs)
