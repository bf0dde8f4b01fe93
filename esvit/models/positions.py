"""What a network has learned for the places of a map, carried over to a map of another size.

Always bicubic and without antialiasing, as in the authors' code and in that of Swin.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(places: Tensor, made_for: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Embeddings [1, H * W, D] of the places of a map `made_for` H x W, for a map of `size`; row by row both."""
    if tuple(made_for) == tuple(size):
        return places
    grid = F.interpolate(torch.unflatten(places.mT, 2, made_for), size=size, mode="bicubic")
    return grid.flatten(2).mT
