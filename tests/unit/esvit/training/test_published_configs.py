"""Every YAML in configs/train is one that `esvit-train` takes, and none draws a caution at the size of its data set."""

from pathlib import Path
from typing import Any

import pytest

from esvit.guards import cautions
from esvit.schedules import Schedules
from esvit.training.loop import TrainConfig
from pipeline.config import load

FOLDER = Path(__file__).parents[4] / "configs/train"
BASE = {"digits_region.yaml": "digits_view.yaml"}  # what a file is given after
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


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@pytest.mark.parametrize("window", [7, 14])
def test_published_rows_name_their_network_and_score(size: str, window: int) -> None:
    path = FOLDER / f"swin_{size}_w{window}.yaml"
    config = load(TrainConfig, [path], ["output=runs/test"])
    assert config.model.backbone.name == f"swin_{size}"
    architecture: Any = config.model.backbone.architecture
    assert architecture.window_size == window
    assert config.global_batch == (1024 if size == "tiny" else 512)
    assert "k-NN" in path.read_text()


@pytest.mark.parametrize("name", ["own_images", "own_images_cpu", "swin_tiny_1gpu_24gb", "swin_tiny_1gpu_80gb"])
@pytest.mark.parametrize("epochs", [1, 6, 1000])
def test_presets_for_one_machine_are_of_any_length(name: str, epochs: int) -> None:
    config = load(TrainConfig, [FOLDER / f"{name}.yaml"], [f"schedule.epochs={epochs}"])
    assert config.schedule.epochs == epochs
    assert config.data.executor == "cpu", "DALI is an extra that not everybody has"
