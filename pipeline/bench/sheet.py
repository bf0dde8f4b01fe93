"""A contact sheet: one labelled row per image and executor, one labelled column per view."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.augment import normalised
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.buffers import Encoded

CELL, HEADER = 112, 36  # pixels
_GAP, _LINE, _FONT_SIZE = 4, 15, 12


class SheetRow(NamedTuple):
    """The views that one executor made of one image."""

    executor: str
    image: Encoded
    number: int
    """The id of the image in its data set."""
    views: Sequence[torch.Tensor]
    """One tensor per group of equal sizes, [V, 3, H, W], as an executor returns them."""


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw the rows. The first column shows the whole image and the label of the row."""
    columns = _column_labels(rows[0].views)
    size = (CELL * (len(columns) + 1), HEADER + CELL * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for column, label in enumerate(["image", *columns]):
        draw.multiline_text((CELL * column + _GAP, _GAP), label, "black", font, spacing=2)
    for place, row in enumerate(rows):
        top = HEADER + CELL * place
        label = f"image {row.number}\n{row.executor}"
        draw.multiline_text((_GAP, top + CELL - 2 * _LINE - _GAP), label, "black", font, spacing=2)
        sheet.paste(_whole(row.image), (_GAP, top + _GAP))
        for column, view in enumerate((view for group in row.views for view in group), start=1):
            sheet.paste(_pixels(view).resize((CELL, CELL)), (CELL * column, top))
    return sheet


def _column_labels(groups: Sequence[torch.Tensor]) -> list[str]:
    """Kind, number and size of each view. The teacher sees the first group, the global views."""
    kinds = ["global", *["local"] * (len(groups) - 1)] if len(groups) > 1 else ["view"]
    return [
        f"{kind} {number + 1}\n{group.shape[-2]} x {group.shape[-1]}"
        for kind, group in zip(kinds, groups, strict=True)
        for number in range(len(group))
    ]


def _whole(image: Encoded) -> Image.Image:
    """The image as stored, small enough to leave room for two lines of text below."""
    with Image.open(io.BytesIO(image)) as file:
        thumbnail = file.convert("RGB")
    thumbnail.thumbnail((CELL - 2 * _GAP, CELL - 2 * _LINE - 3 * _GAP))
    return thumbnail


def _pixels(view: torch.Tensor) -> Image.Image:
    values = normalised(view.cpu()).permute(1, 2, 0).numpy() * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return Image.fromarray((values * 255).round().clip(0, 255).astype(np.uint8))
