"""Decoding: encoded image to RGB pixels as stored. All functions here give the same bits.

EXIF orientation is ignored here, as in the original; `pipeline.pixels` turns images upright where a recipe asks for it.
"""

import contextlib
import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.buffers import Encoded
from pipeline.pixels import MAX_PIXELS

# Raised by PIL for a truncated file or one that is no image, and by `image_size` for an image that is too large.
DECODE_ERRORS = (OSError, SyntaxError, ValueError)
_JPEG_MAGIC = b"\xff\xd8\xff"


def image_size(encoded: Encoded) -> tuple[int, int]:
    """Height and width, from the header alone.

    Raises:
        one of `DECODE_ERRORS`: not an image, or more than `MAX_PIXELS` pixels.
    """
    if encoded[:3] == _JPEG_MAGIC:
        with contextlib.suppress(ValueError):
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            if height * width <= MAX_PIXELS:
                return height, width
    image = _open(encoded)
    return image.height, image.width


def decode_with_pil(encoded: Encoded) -> Image.Image:
    """Decode any format that PIL reads to an RGB image.

    Raises:
        one of `DECODE_ERRORS`: not a decodable image.
    """
    image = _open(encoded)
    if image.mode == "I;16":  # PIL would clip to 255, so most 16-bit photographs would become white
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    return image.convert("RGB")


def decode(encoded: Encoded) -> NDArray[np.uint8]:
    """Decode to RGB pixels [H, W, 3]: JPEG with libjpeg-turbo, other formats with PIL.

    Raises:
        one of `DECODE_ERRORS`: not a decodable image.
    """
    if encoded[:3] == _JPEG_MAGIC:
        # A ValueError here may mean a few stray bytes only: PIL decides whether the damage is fatal.
        with contextlib.suppress(ValueError):
            height, width, colour_space, _ = simplejpeg.decode_jpeg_header(encoded)
            # libjpeg-turbo does not convert CMYK to RGB; PIL does.
            if colour_space not in ("CMYK", "YCCK") and height * width <= MAX_PIXELS:
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded)
                return pixels
    return np.array(decode_with_pil(encoded))


def _open(encoded: Encoded) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(str(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
    return image
