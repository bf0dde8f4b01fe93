"""What a file in a source is: decided by its name, or by its first bytes if the name is not enough."""

import os
import re
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".jxl",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
    ]
)
"""Suffixes in lower case. Every such file counts as an image; its content decides whether it can be taken."""

CONVERTED_SUFFIXES = frozenset([".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"])
"""Suffixes of images that usually need `--to-jpeg`."""

_SYSTEM_NAMES = frozenset({
    "__macosx", ".ds_store", ".localized", ".appledouble", ".fseventsd", ".trashes", ".temporaryitems", ".apdisk",
    "icon\r",  # macOS
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin",
    "system volume information",  # Windows
    "@eadir", "#recycle", "#snapshot", ".@__thumb", ".@upload_cache",  # Synology, QNAP
    ".directory", "lost+found", ".thumbnails",  # Linux
    ".ipynb_checkpoints",
})  # fmt: skip
_SYSTEM_PATTERN = re.compile(r"\._.*|\.nfs[0-9a-f]{16,}|\.trash-\d+|\.(spotlight|documentrevisions)-v\d+")

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ")
_NUM_MAGIC_BYTES = 16


def is_system_file(name: str) -> bool:
    """Whether an operating system (or Jupyter) creates files or folders of this name by itself."""
    lower = name.lower()
    return lower in _SYSTEM_NAMES or _SYSTEM_PATTERN.fullmatch(lower) is not None


def suffix_of(name: str) -> str:
    """The suffix of a file name or path, in lower case; files are counted by it."""
    suffix = os.path.splitext(name)[1]
    return suffix.lower() if len(suffix) > 1 else "(no suffix)"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def is_image_content(path: Path) -> bool:
    """Whether the first bytes are those of an image, whatever the name; False if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_NUM_MAGIC_BYTES)
    except OSError:
        return False
    return (
        head.startswith(_MAGIC)
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"heic", b"heix", b"mif1"))
    )
