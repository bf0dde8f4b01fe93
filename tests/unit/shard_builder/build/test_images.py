"""What becomes of each kind of image: the policies of docs/shards.md, one by one."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.pixels import MAX_PIXELS
from tools.shard_builder.build.images import (
    AS_THEY_ARE,
    DroppedImageError,
    ImagePolicy,
    PreparedImage,
    RejectedImageError,
    prepare,
)
from tools.shard_builder.build.metadata import jpeg_size

PHOTO = Image.effect_mandelbrot((90, 60), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PHOTO, exif=exif)


def sixteen_bit() -> bytes:
    return encode(Image.fromarray((np.arange(60 * 90, dtype=np.uint16) * 12).reshape(60, 90)), "PNG")


def animation(kind: str) -> bytes:
    return encode(PHOTO, kind, save_all=True, append_images=[PHOTO.rotate(90)])


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def opened(prepared: PreparedImage) -> Image.Image:
    image = Image.open(io.BytesIO(prepared.data))
    assert (image.height, image.width) == (prepared.height, prepared.width)
    return image


@pytest.mark.parametrize(("kind", "ext"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("MPO", "jpg")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_by_default_bytes_enter_as_they_are_and_are_named_by_content(kind: str, ext: str, mode: str) -> None:
    data = encode(PHOTO.convert(mode), kind)
    assert prepare(data, AS_THEY_ARE) == PreparedImage(data, ext, 60, 90, 1)
    assert prepare(data + b"\0junk", AS_THEY_ARE).height == 60  # bytes after the end do no harm


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>", "not a JPEG, PNG or WebP image"),
        (encode(PHOTO, "GIF"), "not a JPEG, PNG or WebP image, but GIF, which --to-jpeg converts"),
        (animation("PNG"), "animated image"),
        (animation("WEBP"), "animated image"),
        (bomb(), "more than 89,478,485 pixels: perhaps a decompression bomb"),
        (sixteen_bit(), "16-bit grayscale image"),
        (encode(PHOTO, "PNG")[:40] + b"\0" * 20 + encode(PHOTO, "PNG")[60:], "not a JPEG, PNG or"),
    ],
    ids=["empty", "html", "gif", "apng", "animated webp", "bomb", "16 bit", "garbled header"],
)
def test_rejects_what_trainers_could_not_use(data: bytes, reason: str) -> None:
    with pytest.raises(RejectedImageError, match=reason):
        prepare(data, AS_THEY_ARE)


@pytest.mark.parametrize("num_lost", [1, 2, 20, 500])
@pytest.mark.parametrize(
    ("kind", "filler"), [("JPEG", b""), ("PNG", b""), ("WEBP", b""), ("JPEG", b"\0"), ("PNG", b"\0")]
)
def test_rejects_truncated_images(kind: str, filler: bytes, num_lost: int) -> None:
    data = encode(PHOTO, kind)
    with pytest.raises(RejectedImageError):
        prepare(data[:-num_lost] + filler * num_lost, AS_THEY_ARE)  # also one of the right size, without its content


def test_a_thumbnail_does_not_hide_that_the_image_is_cut() -> None:
    thumbnail = b"Exif\0\0" + encode(PHOTO.resize((9, 6)))
    data = encode(PHOTO)
    whole = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail + data[2:]
    assert prepare(whole, AS_THEY_ARE).orientation == 1
    for end in range(len(thumbnail), len(whole) - 1, 37):
        with pytest.raises(RejectedImageError):
            prepare(whole[:end], AS_THEY_ARE)


def test_decode_check_finds_damage_that_the_structure_hides() -> None:
    data = bytearray(encode(PHOTO, "PNG"))
    data[len(data) // 2] ^= 0xFF
    prepare(bytes(data), AS_THEY_ARE)
    with pytest.raises(RejectedImageError, match="damaged image"):
        prepare(bytes(data), ImagePolicy(decode_check=True))


@pytest.mark.parametrize(("stored", "expected"), [(6, 6), (1, 1), (0, 1), (9, 1)])
def test_reads_the_exif_orientation_and_keeps_the_stored_size(stored: int, expected: int) -> None:
    prepared = prepare(turned(stored), AS_THEY_ARE)
    assert (prepared.height, prepared.width, prepared.orientation) == (60, 90, expected)


def test_garbled_exif_is_no_orientation() -> None:
    assert prepare(encode(PHOTO, exif=b"Exif\x00\x00garbage"), AS_THEY_ARE).orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_can_be_stripped_or_obeyed(orientation: int) -> None:
    data = turned(orientation)
    stripped = prepare(data, ImagePolicy(exif="strip"))
    assert stripped.orientation == 1 and not opened(stripped).getexif()
    assert opened(stripped).tobytes() == Image.open(io.BytesIO(data)).tobytes()
    upright = prepare(data, ImagePolicy(exif="rotate"))
    assert upright.orientation == 1
    assert (upright.height, upright.width) == ((90, 60) if orientation > 4 else (60, 90))
    assert (upright.data == data) == (orientation == 1)
    if orientation == 6:  # turned clockwise: the top left corner comes to the top right
        corner, moved = PHOTO.getpixel((2, 2)), opened(upright).getpixel((57, 2))
        assert np.abs(np.subtract(np.array(corner), np.array(moved))).max() < 16


def test_cmyk_is_kept_dropped_or_converted() -> None:
    data = encode(PHOTO.convert("CMYK"))
    assert prepare(data, AS_THEY_ARE).data == data
    with pytest.raises(DroppedImageError, match="CMYK image"):
        prepare(data, ImagePolicy(cmyk="drop"))
    converted = opened(prepare(data, ImagePolicy(cmyk="convert")))
    assert converted.mode == "RGB"
    assert np.abs(np.asarray(converted, int) - np.asarray(PHOTO, int)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grayscale_is_kept_dropped_or_converted(kind: str) -> None:
    data = encode(PHOTO.convert("L"), kind)
    assert prepare(data, AS_THEY_ARE).data == data
    with pytest.raises(DroppedImageError, match="grayscale image"):
        prepare(data, ImagePolicy(grayscale="drop"))
    assert opened(prepare(data, ImagePolicy(grayscale="convert"))).mode == "RGB"
    assert prepare(encode(PHOTO), ImagePolicy(grayscale="convert")).data == encode(PHOTO)


def test_sixteen_bits_become_the_upper_eight() -> None:
    image = opened(prepare(sixteen_bit(), ImagePolicy(to_jpeg=True)))
    expected = (np.arange(60 * 90, dtype=np.uint16) * 12).reshape(60, 90) >> 8
    assert image.mode == "L" and np.abs(np.asarray(image, int) - expected).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF"])
def test_to_jpeg_takes_the_first_picture_of_every_format(kind: str) -> None:
    data = animation(kind) if kind in ("PNG", "WEBP", "GIF", "TIFF") else encode(PHOTO, kind)
    image = opened(prepare(data, ImagePolicy(to_jpeg=True)))
    assert image.format == "JPEG" and image.size == (90, 60)
    assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(PHOTO, int)).mean() < 4


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (ImagePolicy(shorter_side=30), (45, 30)),
        (ImagePolicy(longer_side=30), (30, 20)),
        (ImagePolicy(shorter_side=30, longer_side=40), (40, 27)),
        (ImagePolicy(shorter_side=60, longer_side=90), (90, 60)),
        (ImagePolicy(shorter_side=500), (90, 60)),
    ],
)
def test_images_are_shrunk_and_never_enlarged(policy: ImagePolicy, size: tuple[int, int]) -> None:
    prepared = prepare(turned(6), policy)
    assert opened(prepared).size == size and prepared.orientation == 6
    assert (prepared.data == turned(6)) == (size == (90, 60))
    assert opened(prepared).getexif().get(0x0112) == 6  # what a change of bytes must not lose


def test_quality_is_a_matter_of_size() -> None:
    low, high = (prepare(encode(PHOTO), ImagePolicy(shorter_side=50, jpeg_quality=q)).data for q in (20, 95))
    assert len(low) < len(high)


def test_takes_every_real_photograph(imagenet_sample: Path) -> None:
    files = sorted(imagenet_sample.rglob("*.JPEG"))
    prepared = [prepare(file.read_bytes(), AS_THEY_ARE) for file in files]
    assert {image.ext for image in prepared} == {"jpg"} and len(prepared) == 600
    strip = ImagePolicy(exif="strip", decode_check=True)
    for file, image in list(zip(files, prepared, strict=True))[::20]:
        stripped = prepare(file.read_bytes(), strip)  # through Pillow
        assert stripped[1:4] == image[1:4] and len(stripped.data) <= len(image.data)


@given(st.data())
def test_garbled_bytes_are_rejected_and_raise_nothing_else(data: st.DataObject) -> None:
    image = bytearray(
        data.draw(st.sampled_from([encode(PHOTO.resize((20, 30)), kind) for kind in ("JPEG", "PNG", "WEBP")]))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, min(len(image) - 1, 300)))] = data.draw(st.integers(0, 255))
    policy = data.draw(st.sampled_from([AS_THEY_ARE, ImagePolicy(exif="strip"), ImagePolicy(shorter_side=10)]))
    with contextlib.suppress(RejectedImageError):
        prepare(bytes(image[: data.draw(st.integers(0, len(image)))]), policy)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_quick_look_at_a_jpeg_sees_what_pillow_sees(mode: str, progressive: bool) -> None:
    data = encode(PHOTO.convert(mode), progressive=progressive, comment=b"hello", icc_profile=b"p" * 300)
    assert jpeg_size(data) == (60, 90)
    assert jpeg_size(turned(6)) is jpeg_size(data[:99]) is jpeg_size(b"") is jpeg_size(encode(PHOTO, "PNG")) is None


def test_the_limit_is_pillows() -> None:
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
