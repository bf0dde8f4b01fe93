"""Look at samples of a data set: the command `shard-builder show`."""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.console.command import Commands, add_command, add_json_flag, not_negative, path, positive, write_json
from pipeline.errors import UserError
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.commands.arguments import add_url_argument
from tools.shard_builder.commands.samples import StoredSample, label_names, read_numbered

_CELL, _MARGIN, _LINE = 200, 8, 15  # pixels
_MAX_COLUMNS = 8
_MAX_ON_SHEET = 1000


class ShowError(UserError):
    """There is no such sample, or the output cannot be written."""


def add_show_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "show", "list samples, draw them on a contact sheet, or extract them", _show)
    add_url_argument(command)
    command.add_argument(
        "--index", type=not_negative, default=0, metavar="N", help="number of the first sample, from 0"
    )
    command.add_argument("--count", type=positive, default=16, metavar="N", help="how many samples")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--output", type=path, metavar="FILE.png", help="draw them on a contact sheet")
    output.add_argument("--extract", type=path, metavar="DIR", help="write the images there, byte for byte")
    add_json_flag(command)


def _show(args: argparse.Namespace) -> None:
    store = Store(args.url)
    manifest = read_manifest(store)
    if args.index >= manifest.num_samples:
        raise ShowError(f"{store.url} has no sample {args.index}: its samples are 0 to {manifest.num_samples - 1}")
    stop = min(args.index + args.count, manifest.num_samples)
    if args.output and stop - args.index > _MAX_ON_SHEET:
        raise ShowError(f"a contact sheet holds at most {_MAX_ON_SHEET} images; choose a smaller --count")
    rows, on_sheet = [], []
    for sample in read_numbered(store, manifest, range(args.index, stop)):
        if args.json:
            rows.append(_row(sample, manifest.classes))
        else:
            sys.stdout.write(f"{sample.shard}  {'  '.join(_describe(sample, manifest.classes))}\n")
        if args.extract:
            with _writing(args.extract):
                _extract(sample, args.extract)
        if args.output:
            on_sheet.append(sample)
    if args.output:
        with _writing(args.output):
            contact_sheet(on_sheet, manifest.classes).save(args.output)
    if args.json:
        write_json({"url": args.url, "num_samples": manifest.num_samples, "samples": rows})


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the suffix is no image format
        raise ShowError(f"cannot write {target}: {error}") from None


def _row(sample: StoredSample, classes: Sequence[str]) -> dict[str, Any]:
    """The facts of `_describe`, for JSON."""
    return {
        "number": sample.number,
        "shard": sample.shard,
        "key": sample.sample.key,
        "classes": label_names(sample.sample, classes),
        "ext": sample.sample.ext,
        "width": sample.width,
        "height": sample.height,
        "num_bytes": len(sample.sample.image),
    }


def _describe(sample: StoredSample, classes: Sequence[str]) -> tuple[str, str, str]:
    """Three texts: number and key; classes; size and format."""
    key, ext, image = sample.sample.key, sample.sample.ext, sample.sample.image
    labels = ", ".join(label_names(sample.sample, classes)) or "no class"
    return f"{sample.number} {key}", labels, f"{sample.width} x {sample.height} {ext}, {len(image):,} bytes"


def contact_sheet(samples: Sequence[StoredSample], classes: Sequence[str]) -> Image.Image:
    """The images in a grid, upright, each with its number, key, classes and size below. An image that cannot be
    decoded is a red frame."""
    columns = min(_MAX_COLUMNS, len(samples))
    height = _CELL + 3 * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * (_CELL + _MARGIN) + _MARGIN, -(-len(samples) // columns) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, sample in enumerate(samples):
        left, top = _MARGIN + place % columns * (_CELL + _MARGIN), _MARGIN + place // columns * height
        if thumbnail := _thumbnail(sample.sample.image):
            sheet.paste(thumbnail, (left + (_CELL - thumbnail.width) // 2, top + (_CELL - thumbnail.height) // 2))
        else:
            draw.rectangle((left, top, left + _CELL, top + _CELL), outline="red")
        for line, text in enumerate(_describe(sample, classes)):
            draw.text((left, top + _CELL + 3 + line * _LINE), _shortened(text, font), "black", font)
    return sheet


def _thumbnail(image: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(image)) as file:
            file.draft("RGB", (_CELL, _CELL))
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except Exception:  # on garbled bytes a decoder may raise anything
        return None
    upright.thumbnail((_CELL, _CELL))
    return upright


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text without its middle, so that it fits into a cell."""
    kept = len(text)
    short = text
    while font.getlength(short) > _CELL:
        kept -= 1
        short = f"{text[: -(-kept // 2)]}...{text[len(text) - kept // 2 :]}"
    return short


def _extract(sample: StoredSample, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sample.sample.key}.{sample.sample.ext}").write_bytes(sample.sample.image)
    if sample.sample.metadata:
        (folder / f"{sample.sample.key}.meta.json").write_bytes(sample.sample.metadata)
