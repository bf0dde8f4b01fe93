"""Loss and update composed plainly, for `esvit.bench.direct`: Python loops over pairs of views and parameters."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from esvit.bench.direct import DirectOutputs

STUDENT_TEMPERATURE, CENTER_MOMENTUM = 0.1, 0.9


class DirectLoss(nn.Module):
    """Half the view term, half the region term, each the mean over the pairs of different views; moves the centres."""

    view_center: Tensor
    region_center: Tensor

    def __init__(self, num_prototypes: int) -> None:
        super().__init__()
        self.register_buffer("view_center", torch.zeros(num_prototypes))
        self.register_buffer("region_center", torch.zeros(num_prototypes))

    def forward(self, student: DirectOutputs, teacher: DirectOutputs, temperature: float) -> Tensor:
        """The loss []."""
        view_targets = _sharpened(teacher.view_logits, self.view_center, temperature)
        region_targets = _sharpened(teacher.region_logits, self.region_center, temperature)
        view_logits = [logits / STUDENT_TEMPERATURE for logits in student.view_logits]
        region_logits = [logits / STUDENT_TEMPERATURE for logits in student.region_logits]
        total, num_pairs = torch.zeros((), device=self.view_center.device), 0
        for q in range(len(view_targets)):
            for v in range(len(view_logits)):
                if v == q:
                    continue
                view = torch.sum(-view_targets[q] * F.log_softmax(view_logits[v].float(), dim=-1), dim=-1)
                match = _best_match(student.regions[v], teacher.regions[q])
                target = region_targets[q].gather(1, match[..., None].expand(-1, -1, region_targets[q].shape[-1]))
                region = torch.sum(-target * F.log_softmax(region_logits[v].float(), dim=-1), dim=-1).mean(dim=-1)
                total = total + 0.5 * view.mean() + 0.5 * region.mean()
                num_pairs += 1
        _move(self.view_center, teacher.view_logits)
        _move(self.region_center, teacher.region_logits)
        return total / num_pairs


def _sharpened(logits: Sequence[Tensor], center: Tensor, temperature: float) -> list[Tensor]:
    return [F.softmax((part.float() - center) / temperature, dim=-1).detach() for part in logits]


@torch.no_grad()
def _best_match(regions: Tensor, candidates: Tensor) -> Tensor:
    similarity = F.normalize(regions.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).transpose(1, 2)
    return similarity.argmax(dim=-1)


@torch.no_grad()
def _move(center: Tensor, logits: Sequence[Tensor]) -> None:
    mean = torch.cat([part.flatten(0, -2) for part in logits]).float().mean(dim=0)
    center.copy_(CENTER_MOMENTUM * center + (1 - CENTER_MOMENTUM) * mean)


def build_direct_optimizer(student: nn.Module) -> AdamW:
    """AdamW that goes from parameter to parameter; biases and other 1-D tensors are exempt from decay."""
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
