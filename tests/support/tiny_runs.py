"""Training runs in this process: four images per step, a very small Swin, a checkpoint after every step."""

import json
from pathlib import Path
from typing import Any

from esvit.checkpoints import files
from esvit.training.loop import TrainConfig
from pipeline.store import Store
from support.shards import encode, picture, write_shards

BATCH, NUM_GLOBAL = 4, 2
_SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "seed": 3,
    "global_batch": BATCH,
    "augment": {
        "views": [
            {"size": 32, "count": NUM_GLOBAL, "area": [0.4, 1.0]},
            {"size": 16, "count": 2, "area": [0.1, 0.4]},
        ]
    },
    "model": {
        "backbone": {"name": "swin_nano", "embed_dim": 16, "num_heads": [2, 2]},
        "head": {"num_prototypes": 24, "hidden": 64, "bottleneck": 16},
    },
    "schedule": {"epochs": 2, "epoch_steps": 2, "warmup_epochs": 0, "warmup_teacher_temperature_epochs": 0},
    "checkpoint": {"every_steps": 1, "keep_last": 99},
    "metrics": {"log_every_steps": 1},
}


def write_images(folder: Path) -> str:
    """Shards of twenty images. PNG, because every release of a codec gives the same pixels."""
    images = [encode(picture(number), "PNG") for number in range(20)]
    write_shards(folder, images[:10], images[10:])
    return str(folder)


def tiny_run(shards: str, output: Path, changes: dict[str, Any] | None = None) -> TrainConfig:
    """The settings of a run; `changes` go one level deep."""
    stream = {"shards": shards, "num_threads": 1, "order": {"lanes": 2}}
    config = {**_SETTINGS, "output": str(output), "data": {"num_threads": 1, "stream": stream}}
    for key, value in (changes or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainConfig.model_validate(config)


def checkpoints(config: TrainConfig) -> list[dict[str, Any]]:
    """The states after 0, 1, ... steps of a run that has ended."""
    store = Store(Path(config.output) / "checkpoints")
    return [files.read(store, name) for name in files.names(store)]


def forget_after(config: TrainConfig, step: int) -> None:
    """As if the run had been killed after the checkpoint of `step`."""
    store = Store(Path(config.output) / "checkpoints")
    for name in files.names(store):
        if name > files.name_of(step):
            files.delete(store, int(name[5:13]))
    files.put_latest(store, step)


def log(config: TrainConfig) -> list[dict[str, float]]:
    """The logged scalars of each step."""
    return [json.loads(line) for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]
