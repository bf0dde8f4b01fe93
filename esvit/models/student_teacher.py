"""The two networks of self-distillation: a student that learns, a teacher that follows (EsViT, section 3.2).

Letters: V views, B images, T regions of a view, D backbone width, K prototypes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esvit.models import BackboneConfig, build_backbone
from esvit.models.head import HeadConfig, ProjectionHead
from pipeline.config import Config


class ModelConfig(Config):
    """Student and teacher alike; both heads are of the same kind."""

    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()


class Outputs(NamedTuple):
    """One tensor a view, in the order of the views.

    `view_logits` [B, K]; `region_logits` [B, T, K]; `regions` [B, T, D], the backbone features behind them.
    Without a region head both region fields are None.
    """

    view_logits: list[Tensor]
    region_logits: list[Tensor] | None
    regions: list[Tensor] | None


class Network(nn.Module):
    """Backbone, view head and, with `with_regions`, region head.

    Each forward uses every parameter: DistributedDataParallel needs no `find_unused_parameters` as long as
    the loss uses both sets of logits.
    """

    def __init__(self, config: ModelConfig, *, drop_path: bool, with_regions: bool) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, drop_path=drop_path)
        self.view_head = ProjectionHead(self.backbone.width, config.head)
        self.region_head = ProjectionHead(self.backbone.width, config.head) if with_regions else None

    def forward(self, views: Sequence[Tensor]) -> Outputs:
        """Run `views`, one tensor [V, B, 3, H, W] per image size, all of the same B images.

        The backbone runs once per size, each head once on all rows: batch norm in a head sees every view.
        """
        batch = views[0].shape[1]
        features = [self.backbone(group.flatten(0, 1)) for group in views]
        rows = torch.cat([pooled for pooled, _ in features])  # [sum of V * B, D]
        view_logits = list(torch.split(self.view_head(rows), batch))
        if self.region_head is None:
            return Outputs(view_logits, None, None)
        regions = [view for _, group in features for view in torch.split(group, batch)]
        rows = torch.cat([view.flatten(0, 1) for view in regions])  # [sum of B * T, D]
        logits = torch.split(self.region_head(rows), [view.shape[:2].numel() for view in regions])
        region_logits = [torch.unflatten(x, 0, (batch, -1)) for x in logits]
        return Outputs(view_logits, region_logits, regions)


class StudentTeacher(nn.Module):
    """A student and its teacher, which starts as a copy, gets no gradient and has no drop path.

    The teacher's parameters follow the student's as a moving average; its buffers do not, as in the authors'
    implementation. So both networks stay in training mode: where the heads have batch norm, the teacher
    normalises with its own batches and keeps its own running statistics.

    To train on many ranks, wrap `student`; `update_teacher` sees the parameters underneath.
    """

    def __init__(self, config: ModelConfig, *, with_regions: bool) -> None:
        super().__init__()
        self.student = Network(config, drop_path=True, with_regions=with_regions)
        self.teacher = Network(config, drop_path=False, with_regions=with_regions)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher: t <- momentum * t + (1 - momentum) * s, for every parameter."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)
