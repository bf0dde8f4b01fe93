"""The two networks of self-distillation: a student that learns, a teacher that follows (EsViT, section 3.2).

Letters: V views, B images, T regions of a view, D backbone width, K prototypes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esvit.models import BackboneConfig, build_backbone
from esvit.models.compiled import compile_backbone
from esvit.models.head import HeadConfig, Prototypes, build_head
from pipeline.config import Config


class ModelConfig(Config):
    """Student and teacher alike; both heads are of the same kind.

    Attributes:
        compile: Compile both backbones for training with torch.compile: minutes at the start and, on a CPU, more
            memory. The gain was not measured. Needs a C++ compiler.
    """

    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    compile: bool = False


class Outputs(NamedTuple):
    """One tensor per view, in the order of the views, and the prototypes of both heads.

    Logits are the products of `view_rows` [B, bottleneck] and `region_rows` [B, T, bottleneck] with the prototypes.
    Logits are large, so they are computed on request only. `regions` [B, T, D] are the backbone features behind the
    region rows. Without a region head, and before its phase begins, all region fields are None.
    """

    view_rows: list[Tensor]
    view_prototypes: Prototypes
    region_rows: list[Tensor] | None
    region_prototypes: Prototypes | None
    regions: list[Tensor] | None

    @property
    def view_logits(self) -> list[Tensor]:
        """[B, K] per view, computed at each call."""
        batch = len(self.view_rows[0])
        return list(torch.split(self.view_prototypes(torch.cat(self.view_rows)), batch))

    @property
    def region_logits(self) -> list[Tensor] | None:
        """[B, T, K] per view, computed at each call."""
        if self.region_rows is None or self.region_prototypes is None:
            return None
        logits = self.region_prototypes(torch.cat([rows.flatten(0, 1) for rows in self.region_rows]))
        parts = torch.split(logits, [rows.shape[:2].numel() for rows in self.region_rows])
        return [torch.unflatten(part, 0, rows.shape[:2]) for part, rows in zip(parts, self.region_rows, strict=True)]


class Network(nn.Module):
    """Backbone, view head and, with `with_regions`, region head.

    DistributedDataParallel needs no `find_unused_parameters`: the forward uses every parameter that is trained but the
    prototypes, and the loss uses those of the heads that take part.

    Attributes:
        uses_regions: Whether the region head takes part; see `StudentTeacher.use_regions`.
    """

    def __init__(self, config: ModelConfig, *, drop_path: bool, with_regions: bool) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, drop_path=drop_path)
        self.view_head = build_head(self.backbone.width, config.head)
        self.region_head = build_head(self.backbone.width, config.head) if with_regions else None
        self.uses_regions = with_regions

    def in_use(self) -> list[Tensor]:
        """The parameters that take part."""
        return [p for name, p in self.named_parameters() if self.uses_regions or not name.startswith("region_head.")]

    def forward(self, views: Sequence[Tensor]) -> Outputs:
        """Run `views`, one tensor [V, B, 3, H, W] per image size, all of the same B images.

        The backbone runs once per size. Each head runs once, on all rows: its batch norm sees every view.
        """
        batch = views[0].shape[1]
        features = [self.backbone(group.flatten(0, 1)) for group in views]
        rows = torch.cat([pooled for pooled, _ in features])  # [sum of V * B, D]
        view_rows = list(torch.split(self.view_head.bottleneck(rows), batch))
        if self.region_head is None or not self.uses_regions:
            return Outputs(view_rows, self.view_head.last_layer, None, None, None)
        regions = [view for _, group in features for view in torch.split(group, batch)]
        rows = torch.cat([view.flatten(0, 1) for view in regions])  # [sum of B * T, D]
        parts = torch.split(self.region_head.bottleneck(rows), [view.shape[:2].numel() for view in regions])
        region_rows = [torch.unflatten(part, 0, (batch, -1)) for part in parts]
        return Outputs(view_rows, self.view_head.last_layer, region_rows, self.region_head.last_layer, regions)


class StudentTeacher(nn.Module):
    """A student and its teacher. The teacher starts as a copy, gets no gradient and has no drop path.

    The teacher's parameters are a moving average of the student's; its buffers are not, as in the authors'
    implementation. So both networks stay in training mode: with batch norm in the heads, the teacher normalises with
    its own batches and keeps its own running statistics.

    To train on several ranks, wrap `student` in DDP; `update_teacher` uses the parameters underneath.
    """

    def __init__(self, config: ModelConfig, *, with_regions: bool) -> None:
        super().__init__()
        self.student = Network(config, drop_path=True, with_regions=with_regions)
        self.teacher = Network(config, drop_path=False, with_regions=with_regions)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        head = self.student.region_head
        self._trained_for_regions = [] if head is None else [p for p in head.parameters() if p.requires_grad]
        if config.compile:
            for network in (self.student, self.teacher):
                compile_backbone(network.backbone)

    def use_regions(self, begun: bool) -> None:
        """Let both region heads take part or, before their phase has begun, stay as they were made.

        Then they are not computed, get no gradient, and so neither decay nor moments, and the teacher's does not move.
        Other parameters get gradients than before: a wrapper for DDP has to be made anew.
        """
        for network in (self.student, self.teacher):
            network.uses_regions = begun and network.region_head is not None
        for parameter in self._trained_for_regions:
            parameter.requires_grad_(begun)

    @torch.no_grad()
    def update_teacher(self, momentum: float, unless: Tensor | None = None) -> None:
        """Move each teacher parameter in use: t <- momentum * t + (1 - momentum) * s; not if `unless` [] is true."""
        teacher, student = self.teacher.in_use(), self.student.in_use()
        weight: Any = 1 - momentum if unless is None else torch.where(unless, 0.0, 1 - momentum)
        torch._foreach_lerp_(teacher, student, [weight] * len(teacher))
