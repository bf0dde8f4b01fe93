"""From a URL to batches, and from encoded images to views, in one call each."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.augment import (
    RECIPES,
    BadImages,
    CenterCropConfig,
    ExecutorError,
    MultiCropConfig,
    Recipe,
    build_executor,
    build_planner,
    normalised,
)
from pipeline.augment.decode import DECODE_ERRORS, image_size
from pipeline.buffers import Encoded
from pipeline.config import ConfigError
from pipeline.library.defaults import stream_config
from pipeline.library.map_style import ImageError
from pipeline.loader import DataConfig, Transform, ViewLoader, open_loader
from pipeline.pixels import orientation
from pipeline.stream import open_sequential_stream, open_training_stream


def view_loader(
    data: str | DataConfig,
    global_batch: int,
    *,
    recipe: str | Recipe = "dino",
    seed: int = 0,
    shuffle: bool = True,
    rank: int | None = None,
    world_size: int | None = None,
    device: torch.device | str = "cpu",
    transform: Transform | None = None,
) -> ViewLoader:
    """Batches of augmented views from finished shards. Close it, or use it as a context manager.

    Args:
        data: URL or folder of the shards; or a config, for all other settings.
        global_batch: Samples per step over all ranks; each rank gets its share.
        recipe: The views: a name in `RECIPES`, or a config.
        seed: Seed of the order and of the views.
        shuffle: False reads every sample once, by id, for an evaluation. The last batch is padded, and its `mask` is
            False at the padding.
        rank: Rank of this process. Default: the rank in torch.distributed, if initialised, else `torchrun`'s.
        world_size: Number of ranks.
        device: Device of the views.
        transform: Own augmentation: a function from the stacked views to new ones. It is called on `device`, in the
            background, ahead of the training step.

    Raises:
        ManifestError, StoreError: there is no readable manifest.
        OrderError: batch, lanes and ranks do not fit, or a data set is too small.
        ConfigError: there is no such recipe.
        ExecutorError: there is no such executor or device.
    """
    config = data if isinstance(data, DataConfig) else DataConfig(stream=stream_config(data, global_batch))
    where = _device(device)
    planner = build_planner(_recipe(recipe), seed)
    if shuffle:
        stream = open_training_stream(config.stream, seed, global_batch, rank, world_size)
    else:
        stream = open_sequential_stream(config.stream, global_batch, rank, world_size)
    return open_loader(stream, planner, config, where, transform)


def views(
    images: Sequence[Encoded],
    *,
    recipe: str | Recipe = "dino",
    seed: int = 0,
    epoch: int = 0,
    ids: Sequence[int] | None = None,
    executor: str = "cpu",
    num_threads: int = 4,
    device: torch.device | str = "cpu",
) -> list[torch.Tensor]:
    """The augmented views of encoded images (JPEG, PNG, WebP, and all other formats that PIL reads).

    The views of an image depend only on seed, epoch and its id. So with the ids of a data set they equal the views of a
    loader. The default `ids` are 0, 1, ...

    Returns:
        One tensor per group of equal sizes, float32 [V, B, 3, H, W], normalised, on `device`.

    Raises:
        ImageError: an image cannot be decoded.
        ConfigError: there is no such recipe.
        ExecutorError: there is no such executor or device.
    """
    where = _device(device)
    planner = build_planner(_recipe(recipe), seed)
    heights, widths, orientations = _headers(images)
    numbers = np.arange(len(images)) if ids is None else np.array(ids, np.int64)
    if len(numbers) != len(images):
        raise ImageError(f"there are {len(images)} images and {len(numbers)} ids; give one id for each image")
    plan = planner(epoch, numbers, heights, widths, orientations)
    at_work = build_executor(executor, num_threads, where)
    try:
        return [normalised(stack.to(where)) for stack in at_work(images, plan)]
    except BadImages as bad:
        b, reason = min(bad.reasons.items())
        raise ImageError(f"image {b} of the list cannot be decoded: {reason}") from None
    finally:
        at_work.close()


def _headers(images: Sequence[Encoded]) -> NDArray[np.int64]:
    """Heights, widths and EXIF orientations [3, B]."""
    found: list[tuple[int, int, int]] = []
    for b, image in enumerate(images):
        if not isinstance(image, bytes | memoryview):
            raise ImageError(f"image {b} of the list is of type {type(image).__name__}; give the bytes of its file")
        try:
            height, width = image_size(image)
            with Image.open(io.BytesIO(image)) as header:
                found.append((height, width, orientation(header)))
        except DECODE_ERRORS as error:
            raise ImageError(f"image {b} of the list cannot be decoded: {error}") from None
    if not found:
        raise ImageError("there are no images to make views of")
    return np.array(found, np.int64).T


def _recipe(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, MultiCropConfig | CenterCropConfig):
        return recipe
    if recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; choose one of {', '.join(RECIPES)}, or give a config")
    return RECIPES[recipe]


def _device(device: torch.device | str) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ExecutorError(f"there is no device {device!r}; choose 'cpu' or 'cuda'") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ExecutorError("there is no CUDA device on this machine; use device 'cpu'")
    return where
