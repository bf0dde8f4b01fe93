"""What the builder finds out about an image, and what it rejects."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tools.shard_builder.images import ImageHeader, RejectedImageError, inspect


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTO = Image.effect_mandelbrot((90, 60), (-2.0, -1.5, 1.0, 1.5), 50)


@pytest.mark.parametrize(("kind", "ext"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tells_size_and_kind_by_content(kind: str, ext: str, mode: str) -> None:
    assert inspect(encode(PHOTO.convert(mode), kind)) == ImageHeader(ext, 60, 90, 1)


def test_cmyk_jpeg_is_an_image() -> None:
    assert inspect(encode(PHOTO.convert("CMYK"), "JPEG")).ext == "jpg"


@pytest.mark.parametrize(("stored", "expected"), [(6, 6), (1, 1), (0, 1), (9, 1)])
def test_reads_the_exif_orientation_and_keeps_the_stored_size(stored: int, expected: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = stored
    assert inspect(encode(PHOTO, "JPEG", exif=exif)) == ImageHeader("jpg", 60, 90, expected)


def test_garbled_exif_is_no_orientation() -> None:
    assert inspect(encode(PHOTO, "JPEG", exif=b"Exif\x00\x00garbage")).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_rejects_cut_images(kind: str, share: float) -> None:
    data = encode(PHOTO.convert("RGB"), kind)
    with pytest.raises(RejectedImageError):
        inspect(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty file"), (b"<html>", "not a JPEG"), (encode(PHOTO, "GIF"), "not a JPEG, PNG or WebP image")],
)
def test_rejects_what_is_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(RejectedImageError, match=reason):
        inspect(data)


def test_takes_every_real_photograph(imagenet_sample: Path) -> None:
    files = sorted(imagenet_sample.rglob("*.JPEG"))
    headers = [inspect(file.read_bytes()) for file in files[::10]]
    assert {header.ext for header in headers} == {"jpg"}
