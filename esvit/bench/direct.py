"""EsViT's student, composed plainly: the baseline of esvit-bench, one operation after another.

The baseline saves no work and no memory:

- Maps are padded before the queries, keys and values are made.
- Every block builds its window mask and gathers its table of relative positions at every forward.
- Autograd keeps all that each operation saves.
- A head returns the logits of all rows.

This is our own code, not a copy of the authors'. We did not check how close their implementation is. Parameters have
the names of `esvit.models`, so weights can be copied between the two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn

from esvit.models.head import HeadConfig
from esvit.models.swin import SwinArchitecture

_LN_EPS = 1e-6


class DirectOutputs(NamedTuple):
    """One tensor per view: view logits [B, K], region logits [B, T, K] and the regions [B, T, D]."""

    view_logits: list[Tensor]
    region_logits: list[Tensor]
    regions: list[Tensor]


class DirectNetwork(nn.Module):
    """Swin, view head and region head."""

    def __init__(self, swin: SwinArchitecture, head: HeadConfig, *, drop_path: bool) -> None:
        super().__init__()
        self.backbone = _Swin(swin, swin.drop_path_rate if drop_path else 0.0)
        self.view_head, self.region_head = (_Head(swin.widths[-1], head) for _ in range(2))

    def forward(self, views: Sequence[Tensor]) -> DirectOutputs:
        """Run views [V, B, 3, H, W], one tensor per size: the backbone once per size, the heads once."""
        batch = views[0].shape[1]
        tokens = [self.backbone(group.flatten(0, 1)) for group in views]  # [V * B, T, D]
        pooled = torch.cat([group.mean(dim=1) for group in tokens])
        regions = [view for group in tokens for view in group.split(batch)]
        rows = torch.cat([view.flatten(0, 1) for view in regions])
        parts = self.region_head(rows).split([len(view) * view.shape[1] for view in regions])
        region_logits = [part.unflatten(0, view.shape[:2]) for part, view in zip(parts, regions, strict=True)]
        return DirectOutputs(list(self.view_head(pooled).split(batch)), region_logits, regions)


class _Head(nn.Module):
    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.last_layer = nn.ParameterDict(
            {
                "weight_g": torch.ones(config.num_prototypes, 1),
                "weight_v": torch.randn(config.num_prototypes, config.bottleneck),
            }
        )

    def forward(self, rows: Tensor) -> Tensor:
        rows = F.normalize(self.mlp(rows), dim=-1)
        weight_g, weight_v = self.last_layer["weight_g"], self.last_layer["weight_v"]
        return F.linear(rows, weight_v * (weight_g / weight_v.norm(dim=1, keepdim=True)))


class _Swin(nn.Module):
    def __init__(self, architecture: SwinArchitecture, drop_path_rate: float) -> None:
        super().__init__()
        widths, patch = architecture.widths, architecture.patch_size
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, widths[0], patch, patch), "norm": nn.LayerNorm(widths[0], eps=_LN_EPS)}
        )
        rates = calculate_drop_path_rates(drop_path_rate, architecture.depths, stagewise=True)
        map_size = architecture.image_size // patch
        self.layers = nn.ModuleList()
        for stage, width in enumerate(widths):
            map_size = (map_size + 1) // 2 if stage else map_size
            window = min(architecture.windows[stage], map_size)
            shift = window // 2 if map_size > window else 0
            blocks = [
                _Block(width, architecture.num_heads[stage], window, shift if i % 2 else 0, rate)
                for i, rate in enumerate(rates[stage])
            ]
            downsample = _Merging(width // 2) if stage else nn.Identity()
            self.layers.append(nn.Sequential())
            self.layers[-1].add_module("downsample", downsample)
            self.layers[-1].add_module("blocks", nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(widths[-1], eps=_LN_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens [B, T, D] of images [B, 3, H, W]."""
        x = self.patch_embed["proj"](images)
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x.flatten(1, 2))  # type: ignore[no-any-return]


class _Merging(nn.Module):
    """Concatenate four neighbours, then halve the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=_LN_EPS)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=_LN_EPS) for _ in range(2))
        self.attn = _Attention(width, heads, window)
        self.drop_path = DropPath(drop_path)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, D]: pad, roll, attend within windows, roll back, crop; then the MLP."""
        window, shift, (height, width) = self.window, self.shift, x.shape[1:3]
        padded = F.pad(self.norm1(x), (0, 0, 0, -width % window, 0, -height % window))
        rolled = padded.roll((-shift, -shift), dims=(1, 2)) if shift else padded
        mask = _shift_mask(rolled.shape[1], rolled.shape[2], window, shift, x.device) if shift else None
        windows = self.attn(_partition(rolled, window), mask)
        rolled = _reverse(windows, window, padded.shape)
        padded = rolled.roll((shift, shift), dims=(1, 2)) if shift else rolled
        x = x + self.drop_path(padded[:, :height, :width].contiguous())
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        step = place[:, None] - place + window - 1  # [N, N, 2]
        index = step[..., 0] * (2 * window - 1) + step[..., 1]
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows x [B * windows, N, D], mask [windows, N, N]."""
        num_tokens = x.shape[1]
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        scores = scores + bias.view(num_tokens, num_tokens, -1).permute(2, 0, 1).contiguous()
        if mask is not None:
            scores = scores.unflatten(0, (-1, len(mask))) + mask[:, None]
            scores = scores.flatten(0, 1)
        return self.proj((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """[windows, N, N]: -100 between tokens that the roll brought together from opposite borders."""
    origin = torch.zeros(1, height, width, 1, device=device)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(bands):
        for j, columns in enumerate(bands):
            origin[:, rows, columns] = 3 * i + j
    windows = _partition(origin, window).squeeze(-1)
    foreign = windows[:, None, :] - windows[:, :, None]
    return foreign.masked_fill(foreign != 0, -100.0)


def _partition(x: Tensor, window: int) -> Tensor:
    """[B, H, W, D] to [B * windows, N, D]."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, dim)


def _reverse(windows: Tensor, window: int, shape: Sequence[int]) -> Tensor:
    """[B * windows, N, D] to [B, H, W, D]."""
    batch, height, width, dim = shape
    x = windows.view(batch, height // window, width // window, window, window, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, dim)
