"""ViL, Vision Longformer: attention to the neighbourhood and to global tokens (Zhang et al., arXiv 2103.15358).

Tokens are cut into windows. A token attends to its own window, to windows around it and to the stage's global tokens.
Global tokens attend to all tokens. Late stages have small maps and full attention. Each stage learns its own global
tokens; the last stage has none, and the mean of its tokens is the pooled feature. Positions enter as a bias of the
scores by relative position.
"""

from dataclasses import dataclass

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features, windows_of_stages
from esvit.models.vil_attention import VilAttention
from pipeline.errors import UserError

_LN_EPS = 1e-6


@dataclass(frozen=True)
class VilArchitecture:
    """One row of the ViL table, one entry per stage. The first stage divides the sides by 4, the others by 2.

    The defaults are from the command in the authors' README.

    Attributes:
        window_size: Side of the windows in tokens: one number, or one per stage; without effect on full attention.
        sparse: Per stage: whether tokens attend to neighbourhoods (true) or to the full map (false).
        num_global: Global tokens of each stage.
        image_size: In pixels: sets the reach of the relative positions of full attention. Images may have any size.
        mode: Neighbouring windows that a token attends to in training: 0 for all eight, 1 for one of them, drawn anew
            in every layer at every forward. In evaluation, always all eight.

    Raises:
        UserError: the stages do not fit together, or there is no such mode.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path_rate: float
    sparse: tuple[bool, ...] = (True, True, False, False)
    num_global: tuple[int, ...] = (1, 1, 1, 0)
    window_size: int | tuple[int, ...] = 7
    image_size: int = 224
    mode: int = 1

    def __post_init__(self) -> None:
        if self.mode not in (0, 1):
            raise UserError(f"a ViL has no mode {self.mode}; choose 0 (all neighbouring windows) or 1 (a random one)")
        stages = (self.widths, self.depths, self.num_heads, self.sparse, self.num_global)
        if len({len(entries) for entries in stages}) > 1:
            raise UserError(
                f"widths, depths and num_heads of a ViL need {len(self.sparse)} entries each, one per stage"
            )
        windows_of_stages(self.window_size, len(self.widths))
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads or width % 2:
                raise UserError(f"a ViL stage of width {width} must be even and split into {heads} attention heads")

    def build(self) -> Backbone:
        """The network, freshly initialised."""
        return Vil(self)


class Vil(Backbone):
    """Stages of patch embedding and attention; the tokens of the last stage are the regions."""

    def __init__(self, architecture: VilArchitecture) -> None:
        super().__init__()
        self.width = architecture.widths[-1]
        rates = calculate_drop_path_rates(architecture.drop_path_rate, architecture.depths, stagewise=True)
        map_size = architecture.image_size // 2
        channels, stages = 3, []
        for stage in range(len(architecture.widths)):
            map_size //= 2
            stages.append(_Stage(architecture, stage, channels, map_size, rates[stage]))
            channels = architecture.widths[stage]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.width, eps=_LN_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The attention blocks of all stages."""
        return [module for module in self.modules() if isinstance(module, _Block)]

    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] to T regions: 49 at 224 px and 9 at 96 px.

        Pixels beyond the last whole patch of any stage, right and bottom, are not seen.
        """
        regions = self.norm(self.stages(images).flatten(2).mT)
        return Features(regions.mean(dim=1), regions)


class _Stage(nn.Module):
    """[B, C, H, W] to [B, D, H / stride, W / stride]."""

    def __init__(
        self, architecture: VilArchitecture, stage: int, channels: int, map_size: int, rates: list[float]
    ) -> None:
        super().__init__()
        width, self.num_global = architecture.widths[stage], architecture.num_global[stage]
        patch = 2 if stage else 4
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width, eps=_LN_EPS)
        if self.num_global:
            self.global_tokens = nn.Parameter(trunc_normal_(torch.empty(1, self.num_global, width), std=0.02))
        heads = architecture.num_heads[stage]
        window = windows_of_stages(architecture.window_size, len(architecture.widths))[stage]
        self.blocks = nn.ModuleList()
        for rate in rates:
            if architecture.sparse[stage]:
                one = architecture.mode == 1
                attention = VilAttention(width, heads, window, self.num_global, 2 * window, one_neighbour=one)
            else:
                attention = VilAttention(width, heads, 0, self.num_global, map_size, resizes=True)
            self.blocks.append(_Block(width, attention, rate))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x).permute(0, 2, 3, 1))
        height, width = x.shape[1:3]
        tokens = x.flatten(1, 2)
        if self.num_global:
            tokens = torch.cat([self.global_tokens.expand(len(x), -1, -1).to(x.dtype), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return torch.unflatten(tokens[:, self.num_global :].mT, 2, (height, width))


class _Block(nn.Module):
    """Attention and MLP on tokens [B, G + H * W, D], each after LayerNorm and with a residual."""

    def __init__(self, width: int, attention: VilAttention, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=_LN_EPS) for _ in range(2))
        self.attn = attention
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), height, width))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]
