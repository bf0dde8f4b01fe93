"""A preset is fitted to the machine and to the number of images."""

import math

import pytest

from esvit.guards import cautions
from esvit.schedules import Schedules
from esvit.training import presets
from esvit.training.config import TrainConfig
from esvit.training.fitted import Machine, TooFewImagesError, fit
from pipeline.config import load
from pipeline.order.lanes import SampleOrder

GB = 10**9


def _config(num_images: int, machine: Machine) -> TrainConfig:
    fitted = fit(num_images, machine)
    return load(TrainConfig, [presets.path_of(fitted.preset), fitted.settings], ["output=runs/test"])


@pytest.mark.parametrize(
    ("num_images", "gpu_bytes", "preset"),
    [
        (600, None, "own_images_cpu"),
        (2_000_000, None, "own_images_cpu"),
        (10_000, 25 * GB, "own_images"),
        (10_000, 85 * GB, "own_images"),
        (1_000_000, 25 * GB, "swin_tiny_1gpu_24gb"),
        (1_000_000, 85 * GB, "swin_tiny_1gpu_80gb"),
        (1_000_000, 12 * GB, "own_images"),
    ],
)
def test_the_preset_follows_from_the_gpu_and_the_images(num_images: int, gpu_bytes: int | None, preset: str) -> None:
    fitted = fit(num_images, Machine(gpu_bytes))
    assert fitted.preset == preset
    assert f"preset {preset} with a batch of {fitted.settings['global_batch']}" in fitted.reason


@pytest.mark.parametrize("gpu_bytes", [None, 8 * GB, 25 * GB, 85 * GB])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_images", [8, 9, 31, 64, 600, 50_000, 1_000_000])
def test_every_fitted_config_can_start_and_draws_no_caution(num_images: int, ranks: int, gpu_bytes: int | None) -> None:
    if num_images < 8 * ranks:
        with pytest.raises(TooFewImagesError, match=f"{num_images} images are too few to pre-train on {ranks} ranks"):
            fit(num_images, Machine(gpu_bytes, ranks))
        return
    config = _config(num_images, Machine(gpu_bytes, ranks))
    per_rank, rest = divmod(config.global_batch, ranks)
    assert rest == 0 and per_rank >= 2 and per_rank % config.accumulation == 0
    order = SampleOrder([num_images], 0, config.global_batch, config.data.stream.order)
    assert order.num_steps >= 4
    peak_lr = Schedules(config.schedule, order.num_steps, config.global_batch).peak_lr
    assert cautions(peak_lr, config.global_batch, config.model.head.num_prototypes, num_images) == []


def test_a_smaller_gpu_gets_the_same_batch_in_more_parts() -> None:
    large, small = (_config(10_000, Machine(size * GB)) for size in (25, 11))
    assert large.global_batch == small.global_batch
    assert small.accumulation == 2 * large.accumulation


def test_more_ranks_share_the_batch() -> None:
    alone, many = (_config(1_000_000, Machine(25 * GB, ranks)) for ranks in (1, 8))
    assert alone.global_batch == many.global_batch
    assert many.accumulation == 1 < alone.accumulation


def test_prototypes_follow_the_images_up_to_those_of_the_preset() -> None:
    counts = [_config(n, Machine(25 * GB)).model.head.num_prototypes for n in (20, 600, 10_000, 150_000)]
    assert counts == [8, 64, 1024, 1024]
    assert all(math.log2(count).is_integer() for count in counts)


def test_checkpoints_of_a_small_folder_are_not_written_every_few_steps() -> None:
    assert _config(600, Machine(None)).checkpoint.every_steps == 100
    assert _config(1_000_000, Machine(None)).checkpoint.every_steps == 0
