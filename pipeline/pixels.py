"""Rules that the shard builder and the executors share: the largest image, and EXIF orientation.

EXIF orientation, 1 to 8, says how the camera was held; the index of a shard records it. To turn a stored image upright,
transpose it where the orientation is 5 or more, then mirror it as `mirrored` says.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 89_478_485
"""The largest image, 268 MB of RGB. Above this size Pillow warns of decompression bombs, and we refuse the image."""
MAX_IMAGE_BYTES = 2**28
"""The largest file of an image: as many bytes as the largest image has without compression."""

ORIENTATION_TAG = 0x0112
"""The EXIF tag of the orientation."""


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none."""
    try:
        value = int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # garbled metadata raises many kinds of errors, and the pixels may be fine
        return 1
    return value if 1 <= value <= 8 else 1


def transposed(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether rows become columns [B]."""
    return orientations >= 5


def mirrored(orientations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether left and right, and whether top and bottom, change places after the transposition: [2, B]."""
    return np.stack([np.isin(orientations, (2, 3, 6, 7)), np.isin(orientations, (3, 4, 7, 8))])


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn a stored image upright: [H, W, 3], or [H, W] if gray; contiguous in memory."""
    one = np.array([orientation])
    (left_right,), (top_bottom,) = mirrored(one)
    turned = pixels.swapaxes(0, 1) if transposed(one)[0] else pixels
    return np.ascontiguousarray(turned[:: -1 if top_bottom else 1, :: -1 if left_right else 1])
