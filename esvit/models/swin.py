"""Swin Transformer over timm's layers, with the arithmetic of EsViT's checkpoints at every image size.

Three things differ from `timm.models.swin_transformer.SwinTransformer`; parameter names do not:

- Each block pads its map to whole windows, then rolls it. timm rolls first. At 96 px, with maps of 24, 12, 6 and 3
  tokens and windows of 7, timm's windows hold other tokens.
- The construction size fixes windows and shifts: at 224 px, window 14 means 14, 14, 14, 7 and shift 7 means 7, 7, 0, 0.
  All other image sizes, rectangles too, run through the same windows.
- LayerNorm's eps is 1e-6 (timm: 1e-5), and there is no classifier.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, calculate_drop_path_rates, trunc_normal_
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features, windows_of_stages
from esvit.models.lean import linear_after
from esvit.models.positions import resized
from esvit.models.windows import into_windows, made, out_of_windows, padded, shift_mask, window_attention, window_order
from pipeline.errors import UserError

_layer_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class SwinArchitecture:
    """One row of the Swin table. From stage to stage, widths double and map sides halve. Sizes are in pixels.

    Attributes:
        window_size: Side of the windows in tokens: one number, or one per stage.
        image_size: The construction size. It fixes windows and shifts, but does not limit the input.
        mlp_ratio: Hidden width of a block's MLP over the width of the stage.
        absolute_positions: Add learned position embeddings to the patches; at other image sizes, embeddings are
            resized.

    Raises:
        UserError: the stages do not fit together.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path_rate: float
    patch_size: int = 4
    window_size: int | tuple[int, ...] = 7
    image_size: int = 224
    mlp_ratio: float = 4.0
    absolute_positions: bool = False

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise UserError(
                f"depths {list(self.depths)} and num_heads {list(self.num_heads)} need one entry per stage each"
            )
        _ = self.windows  # raises
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise UserError(f"a Swin stage of width {width} cannot be split into {heads} attention heads")
        if self.image_size < self.patch_size:
            raise UserError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size} px")

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature width of each stage; the last is the backbone's D."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def windows(self) -> tuple[int, ...]:
        """Side of the windows of each stage, before fitting to the stage's map."""
        return windows_of_stages(self.window_size, len(self.depths))

    @property
    def map_size(self) -> int:
        """Patches along a side of the construction size."""
        return self.image_size // self.patch_size

    def build(self) -> Backbone:
        """The network, freshly initialised."""
        return Swin(self)


class Swin(Backbone):
    """Patch embedding, stages of shifted-window blocks, LayerNorm; the tokens are the regions."""

    def __init__(self, architecture: SwinArchitecture) -> None:
        super().__init__()
        self.width = architecture.widths[-1]
        self.patch_embed = PatchEmbed(
            img_size=None,  # any size
            patch_size=architecture.patch_size,
            embed_dim=architecture.embed_dim,
            norm_layer=_layer_norm,
            output_fmt="NHWC",
        )
        self.map_size = (architecture.map_size, architecture.map_size)
        if architecture.absolute_positions:
            places = torch.empty(1, architecture.map_size**2, architecture.embed_dim)
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(places, std=0.02))
        self.layers = nn.Sequential(*_stages(architecture))
        self.norm = _layer_norm(self.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The attention blocks of all stages."""
        return [module for module in self.modules() if isinstance(module, PadThenRollBlock)]

    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] to T regions: T = 49 at 224 px and 9 at 96 px for the 4 stages of patch 4.

        Pixels beyond the last whole patch, right and bottom, are not seen.
        """
        patches = self.patch_embed(images)
        if hasattr(self, "absolute_pos_embed"):
            size = patches.shape[1:3]
            patches = patches + torch.unflatten(resized(self.absolute_pos_embed, self.map_size, size), 1, size)
        regions = self.norm(self.layers(patches)).flatten(1, 2)
        return Features(regions.mean(dim=1), regions)


def _stages(architecture: SwinArchitecture) -> list[nn.Module]:
    rates = calculate_drop_path_rates(architecture.drop_path_rate, architecture.depths, stagewise=True)
    map_size = architecture.map_size
    stages: list[nn.Module] = []
    for stage, width in enumerate(architecture.widths):
        downsample = PatchMerging(width // 2, width, norm_layer=_layer_norm) if stage else nn.Identity()
        map_size = (map_size + 1) // 2 if stage else map_size
        blocks = [
            PadThenRollBlock(
                width,
                input_resolution=(map_size, map_size),
                num_heads=architecture.num_heads[stage],
                window_size=architecture.windows[stage],
                shift_size=architecture.windows[stage] // 2 if block % 2 else 0,
                mlp_ratio=architecture.mlp_ratio,
                dynamic_mask=True,  # our mask below replaces timm's mask of one fixed size
                drop_path=rates[stage][block],
                norm_layer=_layer_norm,
            )
            for block in range(architecture.depths[stage])
        ]
        stages.append(nn.Sequential(OrderedDict(downsample=downsample, blocks=nn.Sequential(*blocks))))
    return stages


class PadThenRollBlock(SwinTransformerBlock):  # type: ignore[misc]  # timm has no types
    """timm's block with another attention step: pad, roll, attend within windows, roll back, crop.

    Padding tokens are zero, and tokens attend to them like to any other, as in the original. The query, key and value
    of a padding token equal the layer's bias. So only real tokens pass through the linear layers: for a 3 x 3 map in
    windows of 7, 9 tokens instead of 49.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attention and MLP on a map [B, H, W, D], each after LayerNorm and with a residual."""
        x = x + self.drop_path1(self._attn(x))
        hidden = linear_after(self._norm, (x, self.norm2.weight, self.norm2.bias), self.mlp.fc1)
        return x + self.drop_path2(linear_after(F.gelu, (hidden,), self.mlp.fc2))  # type: ignore[no-any-return]

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), weight, bias, self.norm1.eps)

    def _attn(self, x: Tensor) -> Tensor:
        """Window attention of the normalised map x [B, H, W, D]; returns the same shape."""
        qkv = linear_after(self._norm, (x, self.norm1.weight, self.norm1.bias), self.attn.qkv)
        return linear_after(
            self._attend, (qkv, self.attn.qkv.bias, self.attn.relative_position_bias_table), self.attn.proj
        )

    def _attend(self, qkv: Tensor, qkv_bias: Tensor, table: Tensor) -> Tensor:
        """The input [B, H, W, D] of the projection, from queries, keys and values qkv [B, H, W, 3 * D]."""
        height, width = qkv.shape[1:3]
        window, shift = self.window_size[0], self.shift_size[0]
        index = self.attn.relative_position_index
        bias = table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).unsqueeze(0)
        qkv = padded(qkv, qkv_bias, -height % window, -width % window)
        map_size = tuple(qkv.shape[1:3])
        order = made(window_order, *map_size, window, shift, qkv.device)
        if shift:
            bias = bias + made(shift_mask, *map_size, window, shift, qkv.device, bias.dtype).unsqueeze(1)
        windows = into_windows(qkv, order).view(-1, window**2, 3 * self.dim)
        heads = torch.unflatten(windows, 2, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        windows = window_attention(query, key, value, bias).transpose(1, 2).reshape(len(qkv), -1, self.dim)
        cropped: Tensor = out_of_windows(windows, order, map_size)[:, :height, :width]
        return cropped
