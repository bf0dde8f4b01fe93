"""Windows of a map: partition, its inverse, the shift mask and the attention.

Letters: B images, H and W the sides of a map, N tokens of a window, D width.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor

_MASKED = -100.0


class WindowOrder(NamedTuple):
    """`tokens`: the map's tokens in window order; `places`: each token's place in that order. Both int64 [H * W]."""

    tokens: Tensor
    places: Tensor


@lru_cache(maxsize=64)
def window_order(height: int, width: int, window: int, shift: int, device: torch.device) -> WindowOrder:
    """The order of a map of whole windows, rolled up and left by `shift`. Cached, like `shift_mask`."""
    with torch.inference_mode(False):
        number = torch.arange(height * width, device=device)
        rolled = number.view(1, height, width, 1).roll((-shift, -shift), dims=(1, 2))
        tokens = window_partition(rolled, (window, window)).flatten()
        windows = window_reverse(number.view(-1, window, window, 1), (window, window), height, width)
        return WindowOrder(tokens, windows.roll((shift, shift), dims=(1, 2)).flatten())


def into_windows(x: Tensor, order: WindowOrder) -> Tensor:
    """The tokens [B, H * W, D] of a map [B, H, W, D], window by window: roll and partition in one copy."""
    result: Tensor = _Permuted.apply(x.flatten(1, 2), order.tokens, order.places)
    return result


def out_of_windows(x: Tensor, order: WindowOrder, map_size: tuple[int, ...]) -> Tensor:
    """Invert `into_windows`: from x [B, H * W, D] to the map [B, H, W, D]."""
    tokens: Tensor = _Permuted.apply(x, order.places, order.tokens)
    return torch.unflatten(tokens, 1, map_size)


class _Permuted(torch.autograd.Function):
    """Permute rows. The backward is a copy too; autograd would add up gradients row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return d_out.index_select(1, inverse), None, None


def padded(qkv: Tensor, qkv_bias: Tensor, bottom: int, right: int) -> Tensor:
    """Pad qkv [B, H, W, 3 * D] at the bottom and right with the bias, the output for a token of zeros."""
    if not bottom and not right:
        return qkv
    batch, height, width, _ = qkv.shape
    bias = qkv_bias.to(qkv.dtype)
    if right:
        qkv = torch.cat([qkv, bias.expand(batch, height, right, -1)], dim=2)
    if bottom:
        qkv = torch.cat([qkv, bias.expand(batch, bottom, width + right, -1)], dim=1)
    return qkv


def window_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, fused: bool | None = None) -> Tensor:
    """Attention within windows: softmax(q k / sqrt(d) + bias) v of tensors [B * windows, heads, N, d].

    Args:
        query: The windows of an image are consecutive.
        key: As `query`.
        value: As `query`.
        bias: [windows or 1, heads, N, N].
        fused: Use torch's fused attention. None: only on GPUs, where it is faster. On the CPU it has no kernel for a
            bias with a gradient, and its fallback takes up to 1.5 times as long as the plain formula.
    """
    if query.is_cuda if fused is None else fused:
        bias = bias.expand(len(query) // len(bias), *bias.shape).reshape(-1, *bias.shape[1:])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    scores = (torch.unflatten(scores, 0, (-1, len(bias))) + bias).flatten(0, 1)
    weights = scores.softmax(dim=-1).to(value.dtype)
    return weights @ value


@lru_cache(maxsize=64)
def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Attention mask after the roll: [windows, window ** 2, window ** 2], 0 where attention is allowed, else -100.

    `height` and `width` are the sides of the padded map. The roll brings tokens from opposite borders into the last
    windows; these tokens must not attend to each other. Student, teacher and all blocks share the cached masks.
    """

    def bands(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).int() + (position >= length - shift).int()

    with torch.inference_mode(False):  # a mask first made in inference mode must work in training too
        origin = 3 * bands(height)[:, None] + bands(width)  # [height, width], one label per region of origin
        origin = window_partition(origin[None, :, :, None], (window, window)).flatten(1)
        foreign = origin[:, None, :] != origin[:, :, None]
        return torch.zeros(foreign.shape, device=device, dtype=dtype).masked_fill(foreign, _MASKED)


def made(make: Any, *arguments: Any) -> Any:
    """`make(*arguments)` from the cache; without the cache under torch.compile, which cannot see into it."""
    return (make.__wrapped__ if torch.compiler.is_compiling() else make)(*arguments)
