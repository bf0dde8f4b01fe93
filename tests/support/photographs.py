"""Real photographs with the plan of their ten views; measures how close an executor is to the reference."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torchvision import transforms

from pipeline.augment import CropPlan, Executor, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.parity import Parity

Batch = tuple[list[bytes], CropPlan]


def encoded(folder: Path, num_images: int, batch_size: int = 24) -> Iterator[list[bytes]]:
    """Images of an image folder, spread over its classes, batch by batch."""
    files = sorted(folder.glob("train/*/*"))
    files = files[:: len(files) // num_images][:num_images]
    for first in range(0, len(files), batch_size):
        yield [file.read_bytes() for file in files[first : first + batch_size]]


def batches(folder: Path, num_images: int, batch_size: int = 24) -> Iterator[Batch]:
    """Encoded images as above, with the plan of the EsViT recipe."""
    planner, first = MultiCrop(MultiCropConfig(), seed=0), 0
    for images in encoded(folder, num_images, batch_size):
        widths, heights = np.array([Image.open(io.BytesIO(image)).size for image in images]).T
        yield images, planner(0, np.arange(first, first + len(images)), heights, widths)
        first += len(images)


def compare(executors: dict[str, Executor], photographs: Iterator[Batch]) -> dict[str, Parity]:
    """Each executor against the reference, all on the same images and plans."""
    found = {name: Parity() for name in executors}
    reference = build_executor("reference", 2, torch.device("cpu"))
    for images, plan in photographs:
        expected = reference(images, plan)
        for name, executor in executors.items():
            found[name].add(expected, executor(images, plan), plan)
    reference.close()
    return found


def assert_near(parity: Parity) -> None:
    """Executors promise differences of 1/255 in the mean, 4/255 in any view, and 99.9 % of pixels under 6/255."""
    summary, means = parity.summary(), parity.view_means()
    assert means.mean() < 1 and means.max() < 4, summary
    assert summary["share_above_6"] < 0.001, summary  # type: ignore[operator]
    by_operation = summary["mean_by_operation"]
    assert isinstance(by_operation, dict) and max(by_operation.values()) < 1, summary


def two_steps(image: Image.Image, size: int = 224, resize: int = 256) -> torch.Tensor:
    """The evaluation view as the original makes it: torchvision's Resize, bicubic, and CenterCrop [3, H, W], 0..255."""
    shorter = transforms.Resize(resize, transforms.InterpolationMode.BICUBIC)
    return F.pil_to_tensor(transforms.CenterCrop(size)(shorter(image)))
