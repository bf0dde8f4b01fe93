"""CvT as EsViT trains it: convolutions embed and project, attention stays within windows.

This is not the CvT of the paper (Wu et al., arXiv 2103.15808) but the fourth version of EsViT's authors. The published
figures depend on its peculiarities:

- by default, windows do not shift and attention has no position bias: positions come from the 3 x 3 depth-wise
  convolution, with batch norm, that makes queries, keys and values;
- attention scores are divided by the root of the full width, not of a head's width;
- a map smaller than the window is one window; the GELU is x * sigmoid(1.702 x); LayerNorm's eps is 1e-5.

`shift` is Swin's. The authors' option of the same name masks windows as if they were shifted, but does not shift them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates, trunc_normal_
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features, windows_of_stages
from esvit.models.windows import made, shift_mask
from pipeline.errors import UserError


@dataclass(frozen=True)
class CvtArchitecture:
    """One row of the CvT table, one entry per stage. The first stage divides the sides by 4, the others by 2.

    Attributes:
        window_size: Side of the windows in tokens: one number, or one per stage.
        relative_positions: Add to a score a learned bias for the distance between query and key.
        shift: Shift the windows of every second block by half a window, on maps of more than one window.

    Raises:
        UserError: the stages do not fit together.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path_rate: float
    window_size: int | tuple[int, ...] = 7
    relative_positions: bool = False
    shift: bool = False

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.num_heads):
            raise UserError("widths, depths and num_heads of a CvT need one entry per stage each")
        _ = self.windows  # raises
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise UserError(f"a CvT stage of width {width} cannot be split into {heads} attention heads")

    @property
    def windows(self) -> tuple[int, ...]:
        """Side of the windows of each stage."""
        return windows_of_stages(self.window_size, len(self.depths))

    def build(self) -> Backbone:
        """The network, freshly initialised."""
        return Cvt(self)


class Cvt(Backbone):
    """Stages of a convolutional embedding and window attention; the tokens of the last stage are the regions."""

    def __init__(self, architecture: CvtArchitecture) -> None:
        super().__init__()
        self.width = architecture.widths[-1]
        rates = calculate_drop_path_rates(architecture.drop_path_rate, architecture.depths, stagewise=True)
        stages: list[nn.Module] = []
        channels = 3
        for stage, width in enumerate(architecture.widths):
            heads, window = architecture.num_heads[stage], architecture.windows[stage]
            blocks = []
            for number, rate in enumerate(rates[stage]):
                shift = architecture.shift and number % 2 == 1
                attention = _WindowAttention(width, heads, window, shift, architecture.relative_positions)
                blocks.append(_Block(width, attention, rate))
            stages.append(nn.Sequential(_Embedding(channels, width, first=stage == 0), *blocks))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.width)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The attention blocks of all stages."""
        return [module for module in self.modules() if isinstance(module, _Block)]

    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] to T regions: 49 at 224 px and 9 at 96 px."""
        regions = self.norm(self.stages(images.permute(0, 2, 3, 1))).flatten(1, 2)
        return Features(regions.mean(dim=1), regions)


class _Embedding(nn.Module):
    """Overlapping patches: [B, H, W, C] to [B, H / stride, W / stride, D]."""

    def __init__(self, channels: int, width: int, *, first: bool) -> None:
        super().__init__()
        size, stride, padding = (7, 4, 2) if first else (3, 2, 1)
        self.proj = nn.Conv2d(channels, width, size, stride, padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Attention and MLP on a map [B, H, W, D], each after LayerNorm and with a residual."""

    def __init__(self, width: int, attention: "_WindowAttention", drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = attention
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), _QuickGelu(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _WindowAttention(nn.Module):
    def __init__(
        self, width: int, heads: int, window: int, shift: bool = False, relative_positions: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.scale = heads, window, shift, width**-0.5
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_positions:
            table = torch.empty((2 * window - 1) ** 2, heads)
            self.relative_position_bias_table = nn.Parameter(trunc_normal_(table, std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x [B, H, W, D] within windows of the map, padded with zeros to whole ones."""
        height, width, dim = x.shape[1:]
        window = min(self.window, height, width)
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded = x.shape[1:3]
        shift = window // 2 if self.shift and max(padded) > window else 0
        qkv = self.qkv(self.norm(self.depthwise(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
        qkv = qkv.roll((-shift, -shift), dims=(1, 2)) if shift else qkv
        windows = window_partition(qkv, (window, window)).flatten(1, 2)  # [B * windows, window ** 2, 3 * D]
        query, key, value = windows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._bias(window)
        if shift:
            mask = made(shift_mask, *padded, window, shift, x.device, x.dtype).unsqueeze(1).repeat(len(x), 1, 1, 1)
            bias = mask if bias is None else bias + mask
        bias = None if bias is None else bias.to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        out = window_reverse(out.transpose(1, 2).reshape(-1, window, window, dim), (window, window), *padded)
        out = out.roll((shift, shift), dims=(1, 2)) if shift else out
        return self.proj(out[:, :height, :width])  # type: ignore[no-any-return]

    def _bias(self, window: int) -> Tensor | None:
        """Bias [heads, N, N] between the tokens of a window; smaller windows take the middle of the table."""
        if self.relative_position_bias_table is None:
            return None
        places = torch.cartesian_prod(*[torch.arange(window, device=self.relative_position_bias_table.device)] * 2)
        steps = places[:, None] - places + self.window - 1
        index = steps[..., 0] * (2 * self.window - 1) + steps[..., 1]
        return self.relative_position_bias_table[index].permute(2, 0, 1)
