"""A look at one encoded image before it enters a shard: its size, its orientation, and whether it decodes."""

import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_ORIENTATION_TAG = 0x0112


class RejectedImageError(Exception):
    """The bytes are no image that a trainer could decode; the message is the reason."""


class ImageHeader(NamedTuple):
    """What the index records of an image."""

    ext: str
    """By content: ImageNet has PNG files that are called `.JPEG`."""
    height: int
    """In pixels as stored, before any EXIF rotation."""
    width: int
    orientation: int
    """EXIF orientation 1..8; 1 where there is none."""


def inspect(data: bytes) -> ImageHeader:
    """Parse an encoded image and decode it once, so that a cut file is found here and not during training.

    A JPEG is decoded at an eighth of its size: its data is read to the end, but few pixels are made of it.

    Raises:
        RejectedImageError: it is empty, no JPEG, PNG or WebP, cut or damaged.
    """
    if not data:
        raise RejectedImageError("empty file")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            warnings.simplefilter("ignore")  # of odd metadata, which no trainer looks at
            width, height = image.size
            ext = _EXTENSIONS[str(image.format)]
            orientation = _orientation(image)
            image.draft("L", (1, 1))  # the smallest scale there is
            image.load()
    except UnidentifiedImageError:
        raise RejectedImageError("not a JPEG, PNG or WebP image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RejectedImageError(f"damaged image: {error}") from None
    return ImageHeader(ext, height, width, orientation)


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # whatever the parser says of garbled metadata: the pixels may be fine
        return 1
    return value if 1 <= value <= 8 else 1
