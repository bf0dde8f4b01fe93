"""The baseline: multi-crop as in the original EsViT, with PIL in the worker processes of a DataLoader."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image, ImageFilter, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.augment import CenterCropConfig, MultiCropConfig, Recipe
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.augment.plan import ViewGroup
from pipeline.stream.encoded import EncodedBatch


class Original:
    """A DataLoader over encoded images in memory. Its workers live from the first run to `close`."""

    def __init__(self, config: Recipe, num_workers: int) -> None:
        self._config, self._num_workers = config, num_workers
        self._loader: DataLoader[Any] | None = None

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """See `Contestant`. Every run uses the batches of the first run."""
        if self._loader is None:
            images = [bytes(image) for batch in batches for image in batch.images]  # to be pickled
            self._loader = DataLoader(
                EncodedImages(images, self._config),
                batch_size=len(batches[0].images),
                num_workers=self._num_workers,
                persistent_workers=True,
                multiprocessing_context="spawn",
            )
        for _ in self._loader:
            pass

    def close(self) -> None:
        """See `Contestant`."""
        self._loader = None


class EncodedImages(Dataset[list[torch.Tensor]]):
    """Decodes an image and cuts all its views."""

    def __init__(self, images: list[bytes], config: Recipe) -> None:
        self._images = images
        self._transforms = [_centre(config)] if isinstance(config, CenterCropConfig) else _random_views(config)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(io.BytesIO(self._images[index])) as file:
            image = file.convert("RGB")
        return [transform(image) for transform in self._transforms]

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        return (self[i] for i in range(len(self)))


class Blur:
    """PIL's Gaussian blur with a random sigma, in pixels."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self._low, self._high = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = self._low + (self._high - self._low) * float(torch.rand(()))
        return image.filter(ImageFilter.GaussianBlur(sigma))


def _solarize(image: Image.Image) -> Image.Image:
    return ImageOps.solarize(image, 128)


def _centre(config: CenterCropConfig) -> transforms.Compose:
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = [transforms.Resize(config.resize, bicubic), transforms.CenterCrop(config.size)]
    return transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def _random_views(config: MultiCropConfig) -> list[transforms.Compose]:
    return [
        _random_view(config, group, *probabilities)
        for group in config.views
        for probabilities in zip(group.per_view(group.blur), group.per_view(group.solarize), strict=True)
    ]


def _random_view(config: MultiCropConfig, group: ViewGroup, blur: float, solarize: float) -> transforms.Compose:
    jitter = config.jitter
    colour = transforms.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    interpolation = transforms.InterpolationMode(config.interpolation)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(group.size, group.area, config.aspect, interpolation=interpolation),
            transforms.RandomHorizontalFlip(config.flip),
            transforms.RandomApply([colour], jitter.probability),
            transforms.RandomGrayscale(config.grayscale),
            transforms.RandomApply([Blur(config.blur_sigma)], blur),
            transforms.RandomApply([_solarize], solarize),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
