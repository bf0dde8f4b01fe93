"""The view-level loss: views predict the assignment of every other global view (EsViT, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def view_loss(student_logits: Sequence[Tensor], teacher_probs: Sequence[Tensor], student_temperature: float) -> Tensor:
    """Mean cross-entropy over the pairs of different views (18 for 2 global and 8 local views).

    The student's first views are the teacher's views, in the same order:

        for each teacher view q, student view v, v != q:
            mean over B of -sum_k p_q[k] * log softmax(s_v / student_temperature)[k]

    Args:
        student_logits: one [B, K] per view.
        teacher_probs: one [B, K] per teacher view, from `Center.sharpen`.
    """
    log_probs = [torch.log_softmax(logits.float() / student_temperature, dim=-1) for logits in student_logits]
    pairs = [
        -(target * prediction).sum(dim=-1).mean()
        for q, target in enumerate(teacher_probs)
        for v, prediction in enumerate(log_probs)
        if v != q
    ]
    assert pairs, "a loss needs a teacher view and another student view"
    return torch.stack(pairs).mean()
