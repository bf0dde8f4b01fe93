"""Every YAML in configs/train is one that `esvit-train` takes, and none draws a caution at the size of its data set."""

from pathlib import Path
from typing import Any

import pytest

from esvit.guards import cautions
from esvit.schedules import Schedules
from esvit.training.loop import TrainConfig
from pipeline.config import load

FOLDER = Path(__file__).parents[4] / "configs/train"
BASE = {  # what a file is given after
    "digits_region.yaml": "digits_view.yaml",
    "swin_small_w14_region.yaml": "swin_small_w14.yaml",
    "swin_base_w14_region.yaml": "swin_base_w14.yaml",
}
SAMPLES = {"digits": 1437, "cifar10": 10_000, "own": 10_000}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_loads(path: Path) -> None:
    files = [FOLDER / BASE[path.name], path] if path.name in BASE else [path]
    config = load(TrainConfig, files)
    assert config.output.replace("-", "_") == f"runs/{path.stem}"
    assert config.global_batch % config.data.stream.order.lanes == 0
    num_samples = SAMPLES.get(path.stem.partition("_")[0], 1_281_167)
    peak_lr = Schedules(config.schedule, 1, config.global_batch).peak_lr
    assert cautions(peak_lr, config.global_batch, config.model.head.num_prototypes, num_samples) == []


# Of each published run: batch, epochs, the epoch at which regions begin (None: never), linear and k-NN score.
PUBLISHED = {
    "swin_tiny_w7": (512, 300, 0, "78.0", "75.7"),
    "swin_small_w7": (512, 300, 0, "79.5", "77.7"),
    "swin_base_w7": (512, 300, 200, "80.4", "78.9"),
    "swin_tiny_w14": (512, 300, 200, "78.7", "77.0"),
    "swin_small_w14": (256, 300, None, "79.4", "77.3"),
    "swin_small_w14_region": (512, 300, 180, "80.8", "79.1"),
    "swin_base_w14": (512, 300, None, "80.5", "78.3"),
    "swin_base_w14_region": (512, 300, 200, "81.3", "79.3"),
    "cvt_tiny": (1024, 300, 200, "78.5", "76.7"),
    "vil_2262": (1024, 300, 200, "77.5", "74.5"),
    "resnet50": (1024, 300, 200, "75.7", "71.3"),
    "swin_tiny_w7_webvision": (1024, 150, None, "75.4", "69.4"),
    "swin_tiny_w7_openimages": (1024, 150, None, "69.6", "60.3"),
    "swin_tiny_w7_imagenet22k": (1024, 300, None, "73.5", "66.1"),
}


def published(name: str) -> TrainConfig:
    path = FOLDER / f"{name}.yaml"
    return load(TrainConfig, [FOLDER / BASE[path.name], path] if path.name in BASE else [path])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_that_quotes_a_published_score_is_the_run_that_had_it(name: str) -> None:
    batch, epochs, regions, linear, knn = PUBLISHED[name]
    config, text = published(name), (FOLDER / f"{name}.yaml").read_text()
    assert (config.global_batch, config.schedule.epochs) == (batch, epochs)
    assert (config.schedule.region_start_epoch if config.loss.region_weight else None) == regions
    assert config.loss.region_weight in (0, 0.5) and config.schedule.region_warmup_epochs == 0
    assert (config.schedule.warmup_epochs, config.schedule.warmup_teacher_temperature_epochs) == (10, 30)
    assert linear in text and knn in text and f"({batch // 16} images each)" in text
    network, _, window = name.removesuffix("_region").partition("_w")
    assert config.model.backbone.name == network
    if window:
        architecture: Any = config.model.backbone.architecture
        assert architecture.window_size == int(window.partition("_")[0])


@pytest.mark.parametrize(("name", "epoch"), [("swin_small_w14_region", 180), ("swin_base_w14_region", 200)])
def test_a_second_phase_starts_from_a_checkpoint_that_the_first_keeps(name: str, epoch: int) -> None:
    first, second = published(name.removesuffix("_region")), published(name)
    assert second.checkpoint.start_epoch == second.schedule.region_start_epoch == epoch
    assert epoch % first.checkpoint.keep_every_epochs == 0
    step = epoch * (1_281_167 // first.global_batch)
    assert second.checkpoint.start_from.endswith(f"{name.removesuffix('_region')}/step-{step:08d}.pt")
    assert second.model.head.norm_last_layer == (name == "swin_base_w14_region")


@pytest.mark.parametrize("name", ["own_images", "own_images_cpu", "swin_tiny_1gpu_24gb", "swin_tiny_1gpu_80gb"])
@pytest.mark.parametrize("epochs", [1, 6, 1000])
def test_presets_for_one_machine_are_of_any_length(name: str, epochs: int) -> None:
    config = load(TrainConfig, [FOLDER / f"{name}.yaml"], [f"schedule.epochs={epochs}"])
    assert config.schedule.epochs == epochs
    assert config.data.executor == "cpu", "DALI is an extra that not everybody has"
