"""Images that break loaders, inside shards: every executor replaces those that are broken and renders the rest."""

import io
import struct
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.augment import EXECUTORS, BadImages, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.plan import ViewGroup
from pipeline.loader import DataConfig, open_loader
from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig, open_training_stream
from support.shards import encode, jpegs, picture, write_shards

CPU = torch.device("cpu")
PLANNER = MultiCrop(
    MultiCropConfig(
        views=(
            ViewGroup(size=(24, 32), count=2, area=(0.4, 1.0), blur=1.0),
            ViewGroup(size=16, count=2, area=(0.05, 0.4)),
        )
    ),
    seed=0,
)


def bomb_png(side: int = 20_000) -> bytes:
    """A well-formed PNG that says it is `side` x `side` and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def bomb_jpeg() -> bytes:
    """A JPEG whose header was changed to say 60,000 x 60,000."""
    image = encode(picture(0))
    frame = image.index(b"\xff\xc0") + 5
    return image[:frame] + struct.pack(">HH", 60_000, 60_000) + image[frame + 4 :]


def sixteen_bit_png() -> bytes:
    return bytes(cv2.imencode(".png", np.asarray(picture(0)).astype(np.uint16) * 257)[1])


def strip(height: int, width: int) -> bytes:
    file = io.BytesIO()
    picture(0, height, width).save(file, "JPEG")
    return file.getvalue()


DECODABLE: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "cmyk": (lambda: encode(picture(0).convert("CMYK")), (48, 64)),
    "16-bit png": (sixteen_bit_png, (48, 64)),
    "1 x 1": (lambda: strip(1, 1), (1, 1)),
    "20000 x 1": (lambda: strip(20_000, 1), (20_000, 1)),
    "1 x 20000": (lambda: strip(1, 20_000), (1, 20_000)),
    "grayscale": (lambda: encode(picture(0).convert("L")), (48, 64)),
}
BROKEN: dict[str, Callable[[], bytes]] = {
    "zero-length": lambda: b"",
    "truncated": lambda: encode(picture(0))[:700],
    "png bomb": bomb_png,
    "jpeg bomb": bomb_jpeg,
    "text": lambda: b"<html>404 Not Found</html>",
}


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_shards_full_of_them_are_survived(executor: str, tmp_path: Path) -> None:
    good = jpegs(8)
    hard = [make() for make, _ in DECODABLE.values()]
    sizes = {4 + i: size for i, (_, size) in enumerate(DECODABLE.values())}
    write_shards(tmp_path, [*good[:4], *hard, *(make() for make in BROKEN.values()), *good[4:]], sizes=sizes)
    num_images = len(good) + len(hard) + len(BROKEN)
    stream = StreamConfig(shards=str(tmp_path), order=OrderConfig(lanes=1), num_threads=1, max_bad_fraction=1)
    config = DataConfig(stream=stream, executor=executor, num_threads=2)
    with open_loader(open_training_stream(stream, 0, num_images), PLANNER, config, CPU) as loader:
        for batch in islice(loader.forever(), 3):
            first_broken = 4 + len(hard)
            replaced = set(range(first_broken, first_broken + len(BROKEN)))
            assert set(batch.ids.tolist()) == set(range(num_images)) - replaced
            assert all(group.isfinite().all() for group in batch.views)


@pytest.mark.parametrize("kind", DECODABLE)
def test_what_can_be_decoded_looks_like_the_reference(executor: str, kind: str) -> None:
    make, (height, width) = DECODABLE[kind]
    plan = PLANNER(0, np.array([3]), np.array([height]), np.array([width]))
    reference, other = build_executor("reference", 1, CPU), build_executor(executor, 1, CPU)
    for group, expected in zip(other([make()], plan), reference([make()], plan), strict=True):
        assert (group - expected).abs().mean() < 0.03  # 1.7 of 255
    reference.close()
    other.close()


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_is_named_with_its_reason(executor: str, kind: str) -> None:
    plan = PLANNER(0, np.arange(2), np.full(2, 48), np.full(2, 64))
    rendering = build_executor(executor, 1, CPU)
    with pytest.raises(BadImages) as error:
        rendering([jpegs(1)[0], BROKEN[kind]()], plan)
    assert list(error.value.reasons) == [1] and error.value.reasons[1]
    rendering.close()


def test_an_index_that_promises_more_pixels_than_there_are_is_no_crash(executor: str) -> None:
    plan = PLANNER(0, np.arange(2), np.full(2, 480), np.full(2, 640))
    rendering = build_executor(executor, 1, CPU)
    with pytest.raises(BadImages, match="48 x 64 pixels, fewer than the index of its shard says"):
        rendering(jpegs(2), plan)
    rendering.close()
