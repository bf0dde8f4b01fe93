"""Multi-crop with DALI's own reader and random operators, as in DALI's examples: it shows the price of exactness.

The views depend on the slot in the batch and on earlier batches, so this is not an executor of the plan.
"""

import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types

from pipeline.augment import CenterCropConfig, MultiCropConfig, Recipe
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.augment.plan import ViewGroup
from pipeline.format.tar import ShardWriter
from pipeline.stream.encoded import EncodedBatch


class DaliNative:
    """One DALI pipeline that reads a shard of the images, shuffles it, and draws all random numbers itself."""

    def __init__(self, config: Recipe, num_threads: int, device: torch.device) -> None:
        self._config, self._num_threads, self._device = config, num_threads, device
        self._folder = tempfile.TemporaryDirectory(prefix="dali-native-")
        self._pipeline: Any = None

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """See `Contestant`."""
        if self._pipeline is None:
            self._pipeline = self._build(batches)
        for _ in batches:
            self._pipeline.run()

    def _build(self, batches: Sequence[EncodedBatch]) -> Any:
        tar = Path(self._folder.name) / "images.tar"
        with ShardWriter(tar) as writer:
            for number, image in enumerate(chain.from_iterable(batch.images for batch in batches)):
                writer.add(f"{number:06d}", "jpg", bytes(image), 0, 0, 0, 1)
        tar.with_suffix(".idx").write_bytes(writer.dali_index)
        on_gpu = self._device.type == "cuda"
        pipeline = _graph(
            str(tar),
            self._config,
            _views(self._config),
            "gpu" if on_gpu else "cpu",
            batch_size=len(batches[0].images),
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if on_gpu else None,
            seed=0,
        )
        pipeline.build()
        return pipeline

    def close(self) -> None:
        """See `Contestant`."""
        self._pipeline = None
        self._folder.cleanup()


def _views(config: Recipe) -> list[tuple[ViewGroup, float, float]]:
    """Group and probabilities of blur and solarization of each random view."""
    return [
        (group, *probabilities)
        for group in (() if isinstance(config, CenterCropConfig) else config.views)
        for probabilities in zip(group.per_view(group.blur), group.per_view(group.solarize), strict=True)
    ]


# Depth 1: batches rendered ahead after the end of a run would slow down the next contestant.
@pipeline_def(enable_conditionals=True, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
def _graph(tar: str, config: Recipe, views: list[tuple[ViewGroup, float, float]], device: str) -> tuple[Any, ...]:
    index = tar.removesuffix(".tar") + ".idx"
    encoded = fn.readers.webdataset(paths=[tar], index_paths=[index], ext=["jpg"], random_shuffle=True)
    image = fn.decoders.image(encoded, device="mixed" if device == "gpu" else "cpu", output_type=types.RGB)
    if isinstance(config, CenterCropConfig):
        shorter = fn.resize(image, resize_shorter=config.resize, interp_type=types.INTERP_CUBIC, antialias=True)
        return (_normalise(shorter, crop=(config.size, config.size)),)
    return tuple([_view(image, config, *view) for view in views])


def _view(image: Any, config: MultiCropConfig, group: ViewGroup, blur: float, solarize: float) -> Any:
    jitter = config.jitter
    view = fn.random_resized_crop(
        image,
        size=group.size,
        random_area=list(group.area),
        random_aspect_ratio=list(config.aspect),
        interp_type=types.INTERP_LINEAR if config.interpolation == "bilinear" else types.INTERP_CUBIC,
        antialias=True,
    )
    if fn.random.coin_flip(probability=jitter.probability, dtype=types.BOOL):
        view = fn.color_twist(
            view,
            brightness=_around_one(jitter.brightness),
            contrast=_around_one(jitter.contrast),
            saturation=_around_one(jitter.saturation),
            hue=fn.random.uniform(range=[-360 * jitter.hue, 360 * jitter.hue]),
        )
    if fn.random.coin_flip(probability=config.grayscale, dtype=types.BOOL):
        view = fn.saturation(view, saturation=0.0)
    if fn.random.coin_flip(probability=blur, dtype=types.BOOL):
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=list(config.blur_sigma)))
    if fn.random.coin_flip(probability=solarize, dtype=types.BOOL):
        values = [255 - value if value >= 128 else value for value in range(256)]
        view = fn.lookup_table(view, keys=list(range(256)), values=values, dtype=types.UINT8)
    return _normalise(view, mirror=fn.random.coin_flip(probability=config.flip))


def _normalise(view: Any, **crop_or_mirror: Any) -> Any:
    return fn.crop_mirror_normalize(
        view,
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
        dtype=types.FLOAT,
        output_layout="HWC",
        **crop_or_mirror,
    )


def _around_one(strength: float) -> Any:
    return fn.random.uniform(range=[1 - strength, 1 + strength])
