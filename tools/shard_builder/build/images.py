"""Prepare one encoded image for a shard: keep it, change it, or leave it out.

docs/shards.md has the policies as a table.
"""

import contextlib
import io
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field, PositiveInt

from pipeline.config import Config
from pipeline.pixels import MAX_PIXELS, ORIENTATION_TAG, orientation, upright
from tools.shard_builder.build.metadata import jpeg_size, strip_metadata

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_FORMATS = ("JPEG", "PNG", "WEBP")
_OTHER_FORMATS = ("BMP", "GIF", "PPM", "TIFF")  # can be read and converted, but must not enter a shard
_GRAYSCALE_MODES = {"1", "L", "LA", "I;16", "I;16B"}
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"


class RejectedImageError(Exception):
    """No trainer could decode these bytes; the message is the reason."""


class DroppedImageError(Exception):
    """The image is good, but the policy leaves out its kind; the message is the reason."""


class ImagePolicy(Config):
    """Which images enter a shard, and how they are changed. By default they enter byte for byte.

    An image that has to be changed is encoded again, as JPEG. All others keep their bytes.
    """

    shorter_side: PositiveInt | None = None
    """Shrink until the shorter side has this many pixels; smaller images stay as they are."""
    longer_side: PositiveInt | None = None
    """Shrink until the longer side has at most this many pixels."""
    to_jpeg: bool = False
    """Encode PNG, WebP, BMP, GIF, PPM and TIFF as JPEG; of an animation the first picture."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    grayscale: Literal["keep", "drop", "convert"] = "keep"
    """Images with one channel: keep them, leave them out, or convert them to RGB."""
    cmyk: Literal["keep", "drop", "convert"] = "keep"
    """CMYK JPEGs: keep them, leave them out, or convert them to RGB."""
    exif: Literal["keep", "strip", "rotate"] = "keep"
    """Keep the metadata; cut them out, which changes no pixel; or turn rotated images upright."""
    decode_check: bool = False
    """Decode every image in full, and test PNG checksums; if False, only the header and the end are checked."""

    @property
    def changes_images(self) -> bool:
        """Whether images may be encoded anew, so that the bytes depend on the release of Pillow."""
        colour = "convert" in (self.grayscale, self.cmyk)
        return bool(self.shorter_side or self.longer_side or self.to_jpeg or colour or self.exif == "rotate")


AS_THEY_ARE = ImagePolicy()


class PreparedImage(NamedTuple):
    """The bytes for the shard, and their columns in the index."""

    data: bytes
    ext: str
    """By content, not by name: ImageNet has PNG files with the suffix `.JPEG`."""
    height: int
    """In pixels as stored, before any EXIF rotation."""
    width: int
    orientation: int
    """EXIF orientation 1..8; 1 if there is none."""


def prepare(data: bytes, policy: ImagePolicy) -> PreparedImage:
    """Check an encoded image, and change it if the policy says so.

    Parses the header and looks for the end of the file. Only `decode_check` finds damage in between.

    Raises:
        RejectedImageError: empty, of no known format, truncated, damaged, animated, too large, 16-bit grayscale.
        DroppedImageError: the policy leaves out its kind.
    """
    if not data:
        raise RejectedImageError("empty file")
    if (size := _size_of_ordinary(data)) and policy == AS_THEY_ARE:
        return PreparedImage(data, "jpg", *size, 1)
    formats = _FORMATS + _OTHER_FORMATS if policy.to_jpeg else _FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, which no trainer reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                return _prepare(image, data, policy)
    except UnidentifiedImageError:
        kind = "an" if policy.to_jpeg else "a JPEG, PNG or WebP"
        hint = f", but {found}, which --to-jpeg converts" if (found := _other_format(data)) else ""
        raise RejectedImageError(f"not {kind} image{hint}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RejectedImageError(f"more than {MAX_PIXELS:,} pixels: perhaps a decompression bomb") from None
    except (RejectedImageError, DroppedImageError):
        raise
    except Exception as error:  # on garbled bytes a decoder may raise anything
        raise RejectedImageError(f"damaged image: {error}") from None


def _prepare(image: Image.Image, data: bytes, policy: ImagePolicy) -> PreparedImage:
    ext = _EXTENSIONS.get(str(image.format))
    if not _has_its_end(data, ext):
        raise RejectedImageError("truncated image: its end is missing")
    if image.mode in ("I", "F"):
        raise RejectedImageError("more than 16 bits per pixel in one channel")
    turned = orientation(image)
    is_gray, is_cmyk = image.mode in _GRAYSCALE_MODES, image.mode == "CMYK"
    for kind, name, choice in ((is_gray, "grayscale", policy.grayscale), (is_cmyk, "CMYK", policy.cmyk)):
        if kind and choice == "drop":
            raise DroppedImageError(f"{name} image")
    size = _target_size(image.size, policy)
    if (
        size != image.size
        or (policy.to_jpeg and ext != "jpg")
        or (is_gray and policy.grayscale == "convert")
        or (is_cmyk and policy.cmyk == "convert")
        or (turned > 1 and policy.exif == "rotate")
    ):
        if policy.decode_check:
            _decode(image, data)
        return _encode(image, size, turned, policy)
    if ext != "jpg" and getattr(
        image, "is_animated", False
    ):  # a JPEG may hold more pictures, but all decoders skip them
        raise RejectedImageError("animated image; --to-jpeg would take its first picture")
    if image.mode.startswith("I"):
        raise RejectedImageError("16-bit grayscale image, which decoders read differently; convert it with --to-jpeg")
    assert ext is not None  # other formats are always converted
    width, height = image.size
    if policy.decode_check:
        _decode(image, data)
    if policy.exif == "strip":
        return PreparedImage(strip_metadata(data, ext), ext, height, width, 1)
    return PreparedImage(data, ext, height, width, turned)


def _other_format(data: bytes) -> str | None:
    """The format of an image that `--to-jpeg` could convert; None if it is no such image."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=_OTHER_FORMATS) as image:
            return image.format
    return None


def _size_of_ordinary(data: bytes) -> tuple[int, int] | None:
    size = jpeg_size(data)
    return size if size and 0 < size[0] * size[1] <= MAX_PIXELS and _has_its_end(data, "jpg") else None


def _has_its_end(data: bytes, ext: str | None) -> bool:
    """Whether the end of the image is in the file. Bytes after the end do no harm."""
    if ext == "jpg":  # a thumbnail in the metadata has an end marker too, but before the scans
        return data.endswith(_JPEG_END) or data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN)
    if ext == "png":
        return _PNG_END in data
    return ext is None or len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _decode(image: Image.Image, data: bytes) -> None:
    image.load()
    if image.format == "PNG":
        with Image.open(io.BytesIO(data)) as again:
            again.verify()  # load does not test the checksums


def _target_size(size: tuple[int, int], policy: ImagePolicy) -> tuple[int, int]:
    shorter, longer = policy.shorter_side or min(size), policy.longer_side or max(size)
    scale = min(1.0, shorter / min(size), longer / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _encode(image: Image.Image, size: tuple[int, int], turned: int, policy: ImagePolicy) -> PreparedImage:
    """The image as a JPEG of `size`, grayscale or RGB; of the metadata only the orientation is kept."""
    mode = "L" if image.mode in _GRAYSCALE_MODES and policy.grayscale != "convert" else "RGB"
    if size != image.size:
        image.draft(None, (2 * size[0], 2 * size[1]))  # a JPEG decodes faster at 1/2, 1/4 or 1/8 of its size
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow would clip at 255
    pixels = image.convert(mode)
    if size != pixels.size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    if turned > 1 and policy.exif == "rotate":
        pixels = Image.fromarray(upright(np.asarray(pixels), turned))
    exif = Image.Exif()
    if turned > 1 and policy.exif == "keep":
        exif[ORIENTATION_TAG] = turned
    pixels.info.clear()  # a comment in it would be written too
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=policy.jpeg_quality, exif=exif)
    width, height = pixels.size
    return PreparedImage(buffer.getvalue(), "jpg", height, width, turned if policy.exif == "keep" else 1)
