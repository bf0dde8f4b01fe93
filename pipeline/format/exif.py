"""EXIF orientation of an image file, as the index of a shard records it."""

from PIL import Image

ORIENTATION_TAG = 0x0112


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none."""
    try:
        value = int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # whatever the parser says of garbled metadata: the pixels may be fine
        return 1
    return value if 1 <= value <= 8 else 1
