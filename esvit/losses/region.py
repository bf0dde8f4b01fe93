"""The region-level loss: regions predict their best match in every other global view (EsViT, section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def region_loss(
    student_logits: Sequence[Tensor],
    student_regions: Sequence[Tensor],
    teacher_probs: Sequence[Tensor],
    teacher_regions: Sequence[Tensor],
    student_temperature: float,
) -> Tensor:
    """Mean cross-entropy over the pairs of different views, each student region against its match.

    The student's first views are the teacher's views, in the same order; T may differ from view to view:

        for each teacher view q, student view v, v != q:
            j(i) = argmax_j cos(z_v[i], z_q[j])                            per image, without gradient
            mean over B and T_v of -sum_k p_q[j(i), k] * log softmax(s_v[i] / student_temperature)[k]

    Args:
        student_logits: one [B, T_v, K] per view.
        student_regions: one [B, T_v, D] per view, the backbone features z_v.
        teacher_probs: one [B, T_q, K] per teacher view, from `Center.sharpen`.
        teacher_regions: one [B, T_q, D] per teacher view.
    """
    log_probs = [torch.log_softmax(logits.float() / student_temperature, dim=-1) for logits in student_logits]
    pairs = []
    for q, (probs, candidates) in enumerate(zip(teacher_probs, teacher_regions, strict=True)):
        for v, (prediction, regions) in enumerate(zip(log_probs, student_regions, strict=True)):
            if v != q:
                target = probs.take_along_dim(best_match(regions, candidates).unsqueeze(-1), dim=1)
                pairs.append(-(target * prediction).sum(dim=-1).mean())
    assert pairs, "a loss needs a teacher view and another student view"
    return torch.stack(pairs).mean()


@torch.no_grad()
def best_match(regions: Tensor, candidates: Tensor) -> Tensor:
    """Index [B, T] of the candidate [B, T', D] nearest in angle to each region [B, T, D], image by image."""
    with torch.autocast(regions.device.type, enabled=False):  # near ties need fp32
        similarity = F.normalize(regions.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).mT
    return similarity.argmax(dim=-1)
