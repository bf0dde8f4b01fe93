"""EsViT pre-training and its evaluation: networks, losses, the loop (arXiv 2106.09785).

    import esvit
    esvit.train(images="photos", output="runs/mine")
    esvit.train("swin_tiny_w7", output="runs/mine", data={"stream": {"shards": "s3://bucket/imagenet/train"}})

The names here are the public interface, stable from release to release. A name is imported at its first use, so
`import esvit` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esvit.training.api import train
    from esvit.training.callbacks import CheckpointEvent, StepEvent
    from esvit.training.config import TrainConfig

__all__ = ["CheckpointEvent", "StepEvent", "TrainConfig", "train"]

_HOMES = {
    "CheckpointEvent": "esvit.training.callbacks",
    "StepEvent": "esvit.training.callbacks",
    "TrainConfig": "esvit.training.config",
    "train": "esvit.training.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'esvit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
