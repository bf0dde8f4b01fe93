"""Resize learned position tables to a map of another size.

Always bicubic and without antialiasing, as in the authors' code and in that of Swin.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Endings of tensor names: position embeddings, and biases by relative position.
_EMBEDDINGS = ("absolute_pos_embed", "pos_embed")
_BIASES = ("relative_position_bias_table", "local_bias")


def resized(places: Tensor, made_for: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Embeddings [1, H * W, D] of a map `made_for` H x W, resized to a map of `size`; both row by row."""
    if tuple(made_for) == tuple(size):
        return places
    grid = F.interpolate(torch.unflatten(places.mT, 2, made_for), size=size, mode="bicubic")
    return grid.flatten(2).mT


def fitted(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with its square position tables resized to the `shapes` of another network; and their names.

    Tables of another width, and all other tensors, stay as they are.
    """
    result, names = dict(state), []
    for name, tensor in state.items():
        if name not in shapes or tensor.shape == shapes[name]:
            continue
        if name.endswith(_BIASES) and tensor.shape[1:] == shapes[name][1:]:
            result[name] = _resized_square(tensor[None], shapes[name][0])[0]
        elif name.endswith(_EMBEDDINGS) and tensor.shape[2:] == shapes[name][2:]:
            before = tensor.shape[1] - math.isqrt(tensor.shape[1]) ** 2  # 1 with a class token
            after = _resized_square(tensor[:, before:], shapes[name][1] - before)
            result[name] = torch.cat([tensor[:, :before], after], dim=1)
        else:
            continue
        names.append(name)
    return result, names


def _resized_square(table: Tensor, length: int) -> Tensor:
    """A table [1, side ** 2, D] with `length` entries."""
    before, after = math.isqrt(table.shape[1]), math.isqrt(length)
    return resized(table, (before, before), (after, after)).contiguous()
