"""What the shard builder and the executors agree on: how many pixels an image may have, and which way up it is.

EXIF orientation, 1 to 8, says how the camera was held; the index of a shard has it. The upright image is the stored
one, transposed where the orientation is 5 or more, then mirrored left to right and top to bottom as below.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 89_478_485
"""Of an image, 268 MB of RGB: where Pillow begins to warn of decompression bombs, we refuse."""

ORIENTATION_TAG = 0x0112
"""Of EXIF."""


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none."""
    try:
        value = int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # whatever the parser says of garbled metadata: the pixels may be fine
        return 1
    return value if 1 <= value <= 8 else 1


def transposed(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where rows become columns [B]."""
    return orientations >= 5


def mirrored(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where, after that, left and right change places, and where top and bottom do: [2, B]."""
    return np.stack([np.isin(orientations, (2, 3, 6, 7)), np.isin(orientations, (3, 4, 7, 8))])


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The upright image of the stored one, [H, W, 3] or, if it is gray, [H, W], without gaps in memory."""
    one = np.array([orientation])
    (left_right,), (top_bottom,) = mirrored(one)
    turned = pixels.swapaxes(0, 1) if transposed(one)[0] else pixels
    return np.ascontiguousarray(turned[:: -1 if top_bottom else 1, :: -1 if left_right else 1])
