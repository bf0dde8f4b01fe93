"""The headers of an encoded image: read its size, cut out its metadata."""

from collections.abc import Iterator

_PNG_METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
_WEBP_METADATA = {b"EXIF", b"XMP "}
_WEBP_METADATA_FLAGS = 0x0C  # flags for EXIF and XMP in the first byte of the VP8X chunk


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of an ordinary JPEG; None for all others, which Pillow parses in four times the time.

    Ordinary means: baseline or progressive, 8 bits, no EXIF, and valid segments up to the first scan.
    """
    size, position = None, 2
    if data[:2] != b"\xff\xd8":
        return None
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return size
        if marker in (0xC0, 0xC1, 0xC2) and data[position + 4] == 8:
            size = int.from_bytes(data[position + 5 : position + 7]), int.from_bytes(data[position + 7 : position + 9])
        elif not (marker in (0xC4, 0xDB, 0xDD, 0xE0, 0xFE) or 0xE2 <= marker <= 0xEF):
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def strip_metadata(data: bytes, ext: str) -> bytes:
    """The image without EXIF, XMP and PNG texts; its pixels are not encoded again.

    Raises:
        ValueError: the segments of the image are not valid.
    """
    return b"".join({"jpg": _jpeg_parts, "png": _png_parts, "webp": _webp_parts}[ext](data))


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """All segments except APP1 up to the first scan, then all remaining bytes."""
    yield data[:2]
    position = 2
    while data[position + 1 : position + 2] != b"\xda":
        if data[position : position + 1] != b"\xff":
            raise ValueError(f"no JPEG marker at byte {position}")
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if data[position + 1] == 0xFF:  # a fill byte
            end = position + 1
        elif data[position + 1] != 0xE1:
            yield data[position:end]
        position = end
    yield data[position:]


def _png_parts(data: bytes) -> Iterator[bytes]:
    yield data[:8]
    position = 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if data[position + 4 : position + 8] not in _PNG_METADATA:
            yield data[position:end]
        position = end


def _webp_parts(data: bytes) -> Iterator[bytes]:
    position, parts = 12, []
    while position < len(data):
        name = data[position : position + 4]
        num_bytes = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + num_bytes + num_bytes % 2
        chunk = data[position:end]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:]
        if name not in _WEBP_METADATA:
            parts.append(chunk)
        position = end
    yield b"RIFF" + (4 + sum(map(len, parts))).to_bytes(4, "little") + b"WEBP"
    yield from parts
