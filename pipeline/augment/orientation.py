"""EXIF orientation, 1 to 8: which way up a camera says that its photograph is. The index of a shard has it.

The upright image is the stored one, transposed where the orientation is 5 or more, then mirrored left to right and top
to bottom as the tables say.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PIL_NAMES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def transposed(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where rows become columns [B]."""
    return orientations >= 5


def mirrored(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where, after that, left and right change places, and where top and bottom do: [2, B]."""
    return np.stack([np.isin(orientations, (2, 3, 6, 7)), np.isin(orientations, (3, 4, 7, 8))])


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The upright image [H, W, 3], without gaps in memory, of the stored one."""
    one = np.array([orientation])
    (left_right,), (top_bottom,) = mirrored(one)
    turned = pixels.swapaxes(0, 1) if transposed(one)[0] else pixels
    return np.ascontiguousarray(turned[:: -1 if top_bottom else 1, :: -1 if left_right else 1])


def upright_with_pil(image: Image.Image, orientation: int) -> Image.Image:
    """As `upright`, by PIL's own names."""
    return image.transpose(_PIL_NAMES[orientation]) if orientation in _PIL_NAMES else image
