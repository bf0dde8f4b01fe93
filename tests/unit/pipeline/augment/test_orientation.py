"""EXIF orientation: obeyed when asked for, by every executor, for all eight ways a camera can be held."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.augment import EXECUTORS, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.plan import ViewGroup
from pipeline.loader.rendering import render
from pipeline.order import OrderConfig
from pipeline.stream import SampleStream, StreamConfig, open_training_stream
from pipeline.stream.encoded import EncodedBatch
from support.shards import HEIGHT, WIDTH, encode, picture, write_shards

CPU = torch.device("cpu")
VIEWS = (ViewGroup(size=(24, 32), count=2, area=(0.4, 1.0)), ViewGroup(size=16, count=2, area=(0.1, 0.4), blur=0.5))
AS_STORED = MultiCrop(MultiCropConfig(views=VIEWS), seed=0)
UPRIGHT = MultiCrop(MultiCropConfig(views=VIEWS, exif_orientation="apply"), seed=0)


def photograph(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture(orientation), exif=exif)


def turned_by_pil(encoded: bytes) -> bytes:
    return encode(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))), "PNG")


def photographs(folder: Path) -> tuple[SampleStream, EncodedBatch]:
    """A photograph of each orientation, as one batch."""
    images = [photograph(orientation) for orientation in range(1, 9)]
    write_shards(folder, images, orientations=dict(enumerate(range(1, 9))))
    config = StreamConfig(shards=str(folder), order=OrderConfig(lanes=1), num_threads=1)
    stream = open_training_stream(config, 0, 8)
    return stream, next(iter(stream))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_photographs_are_upright_before_windows_are_cut(executor: str, tmp_path: Path) -> None:
    stream, encoded = photographs(tmp_path)
    upright = [turned_by_pil(bytes(image)) for image in encoded.images]
    heights, widths = np.array([Image.open(io.BytesIO(image)).size for image in upright]).T[::-1]
    assert sorted(heights.tolist()) == [HEIGHT] * 4 + [WIDTH] * 4
    rendering = build_executor(executor, 2, CPU)
    expected = rendering(upright, AS_STORED(encoded.passes, encoded.ids, heights, widths))
    ((views, _),) = render([encoded], UPRIGHT, rendering, stream.neighbour)
    for group, other in zip(views, expected, strict=True):
        torch.testing.assert_close(group, other, rtol=0, atol=0)
    rendering.close()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_by_default_photographs_are_left_as_they_are_stored(executor: str, tmp_path: Path) -> None:
    stream, encoded = photographs(tmp_path)
    rendering = build_executor(executor, 2, CPU)
    sizes = np.full(8, HEIGHT), np.full(8, WIDTH)
    expected = [group.clone() for group in rendering(encoded.images, AS_STORED(encoded.passes, encoded.ids, *sizes))]
    ((views, _),) = render([encoded], AS_STORED, rendering, stream.neighbour)
    for group, other in zip(views, expected, strict=True):
        torch.testing.assert_close(group, other, rtol=0, atol=0)
    rendering.close()
