"""Training from Python, on shards or on a folder of images.

esvit.train("swin_tiny_w7", output="runs/mine", data={"stream": {"shards": "s3://bucket/imagenet/train"}})
esvit.train(images="photos", output="runs/mine")
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import ConfigDict

from esvit.training import loop, presets
from esvit.training.callbacks import Callbacks, CheckpointEvent, StepEvent
from esvit.training.config import TrainConfig
from esvit.training.fitted import fit, this_machine
from esvit.training.images import ImagesError, build_shards, say_once, scan
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.console.ending import EXIT_INTERRUPTED

Given = TrainConfig | Mapping[str, Any] | str | PurePath
"""A config: a `TrainConfig`, keys and values, the name of a preset, or the path of a YAML file."""
Overrides = Mapping[str, Any] | Sequence[str]
"""Settings by key, or as text, `key=value`."""
C = TypeVar("C", bound=Config)


def train(
    config: Given | Sequence[Given] = (),
    *,
    images: str | PurePath | None = None,
    on_step: Callable[[StepEvent], object] | None = None,
    on_checkpoint: Callable[[CheckpointEvent], object] | None = None,
    **overrides: Any,
) -> None:
    """Pre-train with the settings of `config`, from the run's newest checkpoint if any; return when complete.

    A script that calls this function may be started by torchrun, like `esvit.train`.

    Args:
        config: One config, or several: later ones win, key by key. Optional with `images`.
        images: Local folder of images, at any depth and without labels. Their shards are built in the user's cache, or
            found there. Without a config, the machine and the number of images decide on a preset.
        on_step: Called after every step, on every rank.
        on_checkpoint: Called after a checkpoint has been written, on the main rank.
        overrides: Settings by key: `seed=1`, `schedule={"epochs": 6}` or `**{"schedule.epochs": 6}`.

    Raises:
        UserError: the run cannot start, and nothing was written; or the run has diverged or collapsed.
        KeyboardInterrupt: Ctrl-C. A checkpoint was written first.
        SystemExit: SIGTERM, with the status 75. A checkpoint was written first.
    """
    found = resolved(config, overrides) if images is None else resolved_for_images(images, config, overrides)
    status = loop.train(found, Callbacks(on_step, on_checkpoint))
    if status == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)


def resolved(config: Given | Sequence[Given], overrides: Overrides = ()) -> TrainConfig:
    """All settings of a run: `config`, then `overrides`, as in `train` or as text, `key=value`.

    Raises:
        ConfigError: a file, a key or a value is wrong.
    """
    return _loaded(TrainConfig, config, overrides)


def resolved_for_images(
    folder: str | PurePath, config: Given | Sequence[Given] = (), overrides: Overrides = (), *, build: bool = True
) -> TrainConfig:
    """All settings of a run on a local folder of images; its shards are built in the user's cache, or found there.

    A given config replaces the preset. Without a config, a run that has begun keeps its own settings; a new run gets
    the preset for this machine, fitted to the number of images. Standard error says which settings were taken.

    Args:
        build: False to build no shards, for callers that read none.

    Raises:
        UserError: a setting is wrong, or the folder has no images or too few; then nothing was built. Or the shards
            cannot be built.
    """
    images = scan(str(folder))
    stream = {"data": {"stream": {"shards": str(images.cached)}}}
    num_images = images.num_images

    def settle() -> tuple[TrainConfig, str]:
        sources, reason = _sources(num_images, config, overrides)
        return resolved([*sources, stream], overrides), reason

    found, reason = settle()
    if found.data.stream.shards != str(images.cached):
        raise ImagesError(
            f"a run trains on the images of {folder} or on data.stream.shards, not on both; give one of them"
        )
    if build:
        num_images = build_shards(images)
        found, reason = settle()
    say_once(reason)
    return found


class _Where(Config):
    """The settings that are read before the preset is known: `device` decides on it, `output` may follow from it."""

    model_config = ConfigDict(extra="ignore")

    output: str = ""
    device: str = "auto"


def _sources(num_images: int, config: Given | Sequence[Given], overrides: Overrides) -> tuple[Sequence[Given], str]:
    """The settings below `overrides`, and a sentence on their source."""
    if given := _list(config):
        return given, f"for {num_images:,} images: the given settings"
    fitted = fit(num_images, this_machine(_loaded(_Where, [], overrides).device))
    written = Path(_loaded(_Where, [fitted.preset], overrides).output) / "config.yaml"
    if written.exists():
        return [written], f"this run has begun; it goes on with the settings in {written}"
    return [fitted.preset, fitted.settings], f"{fitted.reason}; all settings will be in {written}"


def _loaded(schema: type[C], config: Given | Sequence[Given], overrides: Overrides) -> C:
    sources = [_source(part) for part in _list(config)]
    if not isinstance(overrides, Mapping):
        return configuration.load(schema, sources, overrides)
    sources += [configuration.nested(key, _plain(value)) for key, value in overrides.items()]
    return configuration.load(schema, sources)


def _list(config: Given | Sequence[Given]) -> list[Given]:
    return [config] if isinstance(config, TrainConfig | Mapping | str | PurePath) else list(config)


def _source(given: Given) -> configuration.Source:
    if isinstance(given, TrainConfig):
        return given.model_dump(exclude_unset=True)  # only set values: defaults adapt to the other sources
    return _plain(given) if isinstance(given, Mapping) else presets.path_of(str(given))


def _plain(value: Any) -> Any:
    """Paths as text, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
