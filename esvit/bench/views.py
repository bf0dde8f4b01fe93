"""The views of a benchmarked step: noise that is already on the device, or shards through the loader of training."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.library.defaults import stream_config
from pipeline.loader import DataConfig, open_loader
from pipeline.stream import SampleStream, open_training_stream

Views = list[Tensor]  # one tensor [V, B, 3, H, W] a size


def noise(groups: Sequence[tuple[int, int]], batch: int, device: torch.device) -> Iterator[Views]:
    """The same views in every batch: `count` views of `side` pixels for each (count, side) of `groups`."""
    return itertools.repeat([torch.randn(count, batch, 3, side, side, device=device) for count, side in groups])


def open_stream(url: str, batch_size: int) -> SampleStream:
    """The images of a data set, in the order of training.

    Raises:
        UserError: there is no data set at `url`, or the data set has less than one batch.
    """
    return open_training_stream(stream_config(url, batch_size), seed=0, global_batch=batch_size)


@contextlib.contextmanager
def loaded(
    stream: SampleStream, groups: Sequence[tuple[int, int]], device: torch.device, num_threads: int
) -> Iterator[Iterator[Views]]:
    """Views of the images of `stream`, rendered during the step before, as in training."""
    config = DataConfig(stream=stream.config, num_threads=num_threads)
    with open_loader(stream, MultiCrop(recipe(groups), seed=0), config, device) as loader:
        yield (batch.views for batch in loader.forever())


def recipe(groups: Sequence[tuple[int, int]]) -> MultiCropConfig:
    """The default recipe with the counts and sides of `groups`: large views first, all others as small views."""
    large, small = MultiCropConfig().views
    kinds = itertools.chain([large], itertools.repeat(small))
    return MultiCropConfig(
        views=tuple(_resized(kind, count, side) for kind, (count, side) in zip(kinds, groups, strict=False))
    )


def _resized(kind: ViewGroup, count: int, side: int) -> ViewGroup:
    blur, solarize = ((odds + odds[-1:] * count)[:count] for odds in (kind.blur, kind.solarize))
    return kind.replace(size=(side, side), count=count, blur=blur, solarize=solarize)
