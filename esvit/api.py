"""Training from Python: `esvit.train("swin_tiny_w7", output="runs/mine", data={"stream": {"shards": "s3://..."}})`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from esvit import presets, training
from esvit.callbacks import Callbacks, CheckpointEvent, StepEvent
from esvit.train_config import TrainConfig
from pipeline import config as configuration
from pipeline.command import EXIT_INTERRUPTED

Given = TrainConfig | Mapping[str, Any] | str | PurePath
"""A config: itself, its keys and values, the name of a preset, or the path of a YAML file."""


def train(
    config: Given | Sequence[Given],
    *,
    on_step: Callable[[StepEvent], object] | None = None,
    on_checkpoint: Callable[[CheckpointEvent], object] | None = None,
    **overrides: Any,
) -> None:
    """Pre-train as `config` says, from its newest checkpoint if it has one; returns once the run is complete.

    A script that calls this may be started by torchrun, as `esvit.train` itself.

    Args:
        config: One, or several, of which later ones win key by key.
        on_step: Called after every step, on every rank.
        on_checkpoint: Called after a checkpoint has been written, on the main rank.
        overrides: Settings, by key: `seed=1`, `schedule={"epochs": 6}` or `**{"schedule.epochs": 6}`.

    Raises:
        UserError: the run cannot start, and nothing was written; or it has diverged or collapsed.
        KeyboardInterrupt: Ctrl-C. A checkpoint was written first.
        SystemExit: SIGTERM, with the status 75. A checkpoint was written first.
    """
    status = training.train(resolved(config, overrides), Callbacks(on_step, on_checkpoint))
    if status == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)


def resolved(config: Given | Sequence[Given], overrides: Mapping[str, Any] | Sequence[str] = ()) -> TrainConfig:
    """All settings of a run: those of `config`, then `overrides`, as `train` takes them or as text, `key=value`.

    Raises:
        ConfigError: a file, a key or a value is wrong.
    """
    given = [config] if isinstance(config, TrainConfig | Mapping | str | PurePath) else list(config)
    sources = [_source(part) for part in given]
    if not isinstance(overrides, Mapping):
        return configuration.load(TrainConfig, sources, overrides)
    sources += [configuration.nested(key, _plain(value)) for key, value in overrides.items()]
    return configuration.load(TrainConfig, sources)


def _source(given: Given) -> configuration.Source:
    if isinstance(given, TrainConfig):
        return given.model_dump(exclude_unset=True)  # defaults are to fit what is given beside it
    return _plain(given) if isinstance(given, Mapping) else presets.path_of(str(given))


def _plain(value: Any) -> Any:
    """Paths as text, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
