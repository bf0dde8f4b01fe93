"""Resizing as PIL does it, within 1/255, straight into existing memory.

`torch.nn.functional.interpolate` has no argument for an output tensor. So this file calls the private kernels behind
it, and no other file does. torch may change them in any release; `tests/test_seams.py` then fails.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.crop_plan import Interpolation

_KERNELS: dict[Interpolation, Any] = {
    "bicubic": torch._C._nn._upsample_bicubic2d_aa,
    "bilinear": torch._C._nn._upsample_bilinear2d_aa,
}


def resize_into(out: NDArray[np.uint8], pixels: NDArray[np.uint8], interpolation: Interpolation = "bicubic") -> None:
    """Resize `pixels` [H, W, 3] to the size of `out` [h, w, 3], antialiased. Slow on rows with gaps."""
    _KERNELS[interpolation](_channels_first(pixels), out.shape[:2], False, out=_channels_first(out))


def _channels_first(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """[H, W, 3] as [1, 3, H, W], the same memory."""
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None])
