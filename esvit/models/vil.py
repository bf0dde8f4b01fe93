"""ViL, Vision Longformer: attention to the neighbourhood and to global tokens (Zhang et al., arXiv 2103.15358).

Tokens are cut into windows. A token attends to its own window, to the eight around it, and to the stage's global
tokens; the global tokens attend to everything. Late stages, whose maps are small, attend in full. Global tokens are
learned anew in each stage; the last has none, so that the mean of its tokens is the pooled feature. Positions enter
as a bias of the scores by relative place. For maps of another size than the table was made for the authors' code
interpolates the whole matrix of biases; here each pair of places takes the entry of its own distance.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features
from pipeline.errors import UserError

_LN_EPS = 1e-6


@dataclass(frozen=True)
class VilArchitecture:
    """One row of the ViL table, an entry a stage; the first stage divides the sides by 4, the others by 2.

    Which stages attend in full, and the size of the tables of positions, were inferred from the published number of
    parameters, and not compared with a published checkpoint. `sparse` says which stages attend to neighbourhoods,
    `num_global` how many global tokens a stage has; `image_size`, in pixels, sets how far the relative positions of
    full attention reach; images may have any size.

    Raises:
        UserError: the stages do not fit together.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path_rate: float
    sparse: tuple[bool, ...] = (True, True, False, False)
    num_global: tuple[int, ...] = (1, 1, 1, 0)
    window_size: int = 7
    image_size: int = 224

    def __post_init__(self) -> None:
        stages = (self.widths, self.depths, self.num_heads, self.sparse, self.num_global)
        if len({len(entries) for entries in stages}) > 1:
            raise UserError(f"widths, depths and num_heads of a ViL need {len(self.sparse)} entries each, one a stage")
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads or width % 2:
                raise UserError(f"a ViL stage of width {width} must be even and split into {heads} attention heads")

    def build(self) -> Backbone:
        """The network, freshly initialised."""
        return Vil(self)


class Vil(Backbone):
    """Stages of patch embedding and attention; the tokens of the last are the regions."""

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
        heads, window = architecture.num_heads[stage], architecture.window_size
        sparse = architecture.sparse[stage]
        self.blocks = nn.ModuleList(
            _Block(
                width,
                VilAttention(
                    width, heads, window if sparse else 0, self.num_global, 2 * window if sparse else map_size
                ),
                rate,
            )
            for rate in rates
        )

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

    def __init__(self, width: int, attention: "VilAttention", drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=_LN_EPS) for _ in range(2))
        self.attn = attention
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), height, width))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]


class VilAttention(nn.Module):
    """Full attention, or with a `window` that of the neighbourhood and the global tokens.

    Every score has a bias for how far apart query and key are, from a table of `reach` - 1 steps in each direction,
    or for the kinds of the two where one is global.
    """

    def __init__(self, width: int, heads: int, window: int, num_global: int, reach: int) -> None:
        super().__init__()
        self.heads, self.window, self.num_global, self.reach = heads, window, num_global, reach
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.local_bias = nn.Parameter(trunc_normal_(torch.empty((2 * reach - 1) ** 2, heads), std=0.02))
        if num_global:
            self.mixed_bias = nn.Parameter(trunc_normal_(torch.empty(2, heads, num_global), std=0.02))
            self.global_bias = nn.Parameter(trunc_normal_(torch.empty(heads, num_global, num_global), std=0.02))

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attention of tokens [B, G + H * W, D], the global ones first."""
        qkv = torch.unflatten(self.qkv(tokens), 2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        parts = []
        if self.num_global:
            everywhere = self.mixed_bias[0, :, :, None].expand(-1, -1, height * width)
            bias = torch.cat([self.global_bias, everywhere], dim=2)
            parts.append(_attend(query[:, :, : self.num_global], key, value, bias))
        if self.window:
            parts.append(self._neighbourhood(query, key, value, height, width))
        else:
            places = _grid(0, height, 0, width, tokens.device)
            bias = self._with_global(self._bias(places, places))
            parts.append(_attend(query[:, :, self.num_global :], key, value, bias))
        out: Tensor = self.proj(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
        return out

    def _bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[heads, N, M] for places [N, 2] and [M, 2]; further than the table reaches counts as its end."""
        reach = self.reach - 1
        steps = (queries[:, None] - keys).clamp(-reach, reach) + reach
        return self.local_bias[steps[..., 0] * (2 * reach + 1) + steps[..., 1]].permute(2, 0, 1)

    def _with_global(self, bias: Tensor) -> Tensor:
        """The bias [heads, N, M] of places, with the global tokens before the M keys."""
        if not self.num_global:
            return bias
        return torch.cat([self.mixed_bias[1, :, None].expand(-1, bias.shape[1], -1), bias], dim=2)

    def _neighbourhood(self, query: Tensor, key: Tensor, value: Tensor, height: int, width: int) -> Tensor:
        """What the places of the map attend to: [B, heads, G + H * W, d] to [B, heads, H * W, d]."""
        window, num_global = self.window, self.num_global
        rows, columns = -(-height // window), -(-width // window)
        padding = (0, 0, 0, columns * window - width, 0, rows * window - height)

        def to_map(x: Tensor) -> Tensor:  # [B, heads, rows * window, columns * window, d]
            return F.pad(torch.unflatten(x[:, :, num_global:], 2, (height, width)), padding)

        def around(x: Tensor) -> Tensor:  # [B, windows, heads, G + 9 * window ** 2, d]
            near = F.pad(to_map(x), (0, 0, window, window, window, window))
            near = near.unfold(2, 3 * window, window).unfold(3, 3 * window, window)
            near = near.permute(0, 2, 3, 1, 5, 6, 4).flatten(4, 5).flatten(1, 2)
            everywhere = x[:, None, :, :num_global].expand(-1, rows * columns, -1, -1, -1)
            return torch.cat([everywhere, near], dim=3)

        own = torch.unflatten(torch.unflatten(to_map(query), 3, (columns, window)), 2, (rows, window))
        own = own.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(1, 2)
        device = query.device
        places = _grid(0, window, 0, window, device), _grid(-window, 2 * window, -window, 2 * window, device)
        bias = self._with_global(self._bias(*places)) + neighbourhood_mask(height, width, window, num_global, device)
        out = torch.unflatten(_attend(own, around(key), around(value), bias), 3, (window, window))
        out = torch.unflatten(out, 1, (rows, columns)).permute(0, 3, 1, 4, 2, 5, 6).flatten(2, 3).flatten(3, 4)
        return out[:, :, :height, :width].flatten(2, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))


def _grid(top: int, bottom: int, left: int, right: int, device: torch.device) -> Tensor:
    """Places [N, 2], row by row."""
    rows, columns = torch.arange(top, bottom, device=device), torch.arange(left, right, device=device)
    return torch.cartesian_prod(rows, columns)


@lru_cache(maxsize=64)
def neighbourhood_mask(height: int, width: int, window: int, num_global: int, device: torch.device) -> Tensor:
    """Which of a window's keys are real: [windows, 1, 1, num_global + 9 * window ** 2], 0 for yes, else -inf."""
    with torch.inference_mode(False):  # a mask first made in inference must serve training too
        right, bottom = -width % window + window, -height % window + window
        unreal = F.pad(torch.zeros(height, width, device=device), (window, right, window, bottom), value=-torch.inf)
        unreal = unreal.unfold(0, 3 * window, window).unfold(1, 3 * window, window).flatten(2).flatten(0, 1)
        return F.pad(unreal, (num_global, 0))[:, None, None]
