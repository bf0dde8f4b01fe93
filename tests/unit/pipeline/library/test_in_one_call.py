"""From a URL to batches, and from encoded images to views: what is given decides, and mistakes are sentences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.augment import CenterCropConfig, ExecutorError, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.config import ConfigError
from pipeline.errors import UserError
from pipeline.library.in_one_call import view_loader, views
from pipeline.library.map_style import ImageError, Shards
from pipeline.loader import DataConfig
from pipeline.order import OrderConfig, OrderError
from pipeline.store import StoreError
from pipeline.stream import Source, StreamConfig
from support.shards import encode, jpegs, picture

SMALL = MultiCropConfig(
    views=(ViewGroup(size=16, count=2, area=(0.4, 1.0)), ViewGroup(size=8, count=3, area=(0.1, 0.4)))
)


def test_the_views_are_those_that_a_loader_gives(shards: Path) -> None:
    with view_loader(str(shards), 8, recipe=SMALL, seed=5) as loader:
        for epoch in range(2):
            batch = next(iter(loader))
            images = [Shards(shards)[i].encoded for i in batch.ids.tolist()]
            same = views(images, recipe=SMALL, seed=5, epoch=epoch, ids=batch.ids.tolist())
            torch.testing.assert_close(same, batch.views, rtol=0, atol=0)
            assert [tuple(stack.shape) for stack in same] == [(2, 8, 3, 16, 16), (3, 8, 3, 8, 8)]
            list(loader)


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 1}, {"ids": [1, 0, 2]}], ids=str)
def test_seed_epoch_and_id_change_the_views(change: dict[str, Any]) -> None:
    images = jpegs(3)
    before, after = (views(images, recipe=SMALL, **given) for given in ({}, change))
    assert not torch.equal(before[0], after[0])


def test_images_of_other_formats_and_sizes_are_welcome() -> None:
    images: list[bytes | memoryview] = [
        encode(picture(0, 40, 90), "PNG"),
        encode(picture(1, 90, 40), "WEBP"),
        memoryview(jpegs(1)[0]),
    ]
    assert views(images, recipe=SMALL)[0].shape == (2, 3, 3, 16, 16)


def test_an_image_is_turned_where_the_recipe_says_so() -> None:
    image = picture(0)
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    turned = encode(image, "PNG", exif=exif)
    plain = encode(image.rotate(180), "PNG")
    apply = SMALL.replace(exif_orientation="apply")
    torch.testing.assert_close(views([turned], recipe=apply), views([plain], recipe=apply), rtol=0, atol=0)
    assert not torch.equal(views([turned], recipe=SMALL)[0], views([plain], recipe=SMALL)[0])


def test_every_sample_comes_once_without_a_shuffle(shards: Path) -> None:
    with view_loader(str(shards), 10, recipe=CenterCropConfig(size=16, resize=20), shuffle=False) as loader:
        assert len(loader) == 4
        assert [i for batch in loader for i in batch.ids[batch.mask].tolist()] == [*range(37)]


def test_a_config_says_everything(shards: Path) -> None:
    stream = StreamConfig(
        shards=tuple(Source(url=str(shards), weight=weight) for weight in (1, 3)), order=OrderConfig(lanes=2)
    )
    with view_loader(DataConfig(stream=stream, executor="reference", num_threads=1), 8, recipe=SMALL) as loader:
        batch = next(iter(loader))
    assert batch.data_sets.sum() == 6 and batch.data_sets.tolist() == (batch.ids >= 37).tolist()
    assert batch.keys == [f"k{i % 37:06d}" for i in batch.ids.tolist()]


@pytest.mark.parametrize("batch", [1, 2, 6, 12, 37])
def test_a_url_takes_any_batch(shards: Path, batch: int) -> None:
    with view_loader(str(shards), batch, recipe=SMALL) as loader:
        assert len(next(iter(loader)).ids) == batch and len(loader) == 37 // batch


# What a caller whom no type checker warns may hand over.
NAMES: Any = ["a.jpg"]
ONE_IMAGE: Any = jpegs(1)[0]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda url: view_loader(f"{url}/none", 8), StoreError, "holds no manifest.json"),
        (lambda url: view_loader(url, 0), OrderError, "a global batch of 0 samples is too small"),
        (lambda url: view_loader(url, -8), OrderError, "a global batch of -8 samples is too small"),
        (lambda url: view_loader(url, 0, shuffle=False), OrderError, "a global batch of 0 samples is too small"),
        (lambda url: view_loader(url, 64), OrderError, "fewer than one global batch of 64"),
        (lambda url: view_loader(url, 8, rank=2, world_size=2), OrderError, "there is no rank 2 of 2"),
        (lambda url: view_loader(url, 8, rank=-1, world_size=2), OrderError, "there is no rank -1 of 2"),
        (lambda url: view_loader(url, 8, world_size=2), OrderError, "world_size 2 is given without a rank"),
        (lambda url: view_loader(url, 8, rank=0, world_size=3), OrderError, "cannot be split evenly over 3 ranks"),
        (lambda url: view_loader(url, 8, recipe="dyno"), ConfigError, "there is no recipe 'dyno'; choose one of dino"),
        (lambda url: view_loader(url, 8, device="gpu"), ExecutorError, "there is no device 'gpu'"),
        (
            lambda url: view_loader(DataConfig(stream=StreamConfig(shards=url), executor="cdu"), 8),
            ExecutorError,
            "unknown executor 'cdu'",
        ),
        (lambda _: views([]), ImageError, "there are no images"),
        (lambda _: views(NAMES), ImageError, "image 0 of the list is of type str; give the bytes of its file"),
        (lambda _: views(ONE_IMAGE), ImageError, "image 0 of the list is of type int; give the bytes of its file"),
        (lambda _: views([*jpegs(2), b""]), ImageError, "image 2 of the list cannot be decoded"),
        (lambda _: views([jpegs(1)[0], jpegs(1)[0][:-400]]), ImageError, "image 1 of the list cannot be decoded"),
        (lambda _: views(jpegs(2), ids=[1]), ImageError, "there are 2 images and 1 ids"),
        (lambda _: views(jpegs(1), recipe="dyno"), ConfigError, "there is no recipe 'dyno'"),
        (lambda _: views(jpegs(1), executor="cdu"), ExecutorError, "unknown executor 'cdu'"),
        (lambda _: views(jpegs(1), device="cuda:99x"), ExecutorError, "there is no device 'cuda:99x'"),
    ],
)
def test_a_mistake_is_one_sentence(
    shards: Path, call: Callable[[str], object], error: type[UserError], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        call(str(shards))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_named_before_the_first_batch(shards: Path) -> None:
    with pytest.raises(ExecutorError, match="there is no CUDA device on this machine"):
        view_loader(str(shards), 8, device="cuda")
