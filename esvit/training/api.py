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
from pipeline.console.command import EXIT_INTERRUPTED

Given = TrainConfig | Mapping[str, Any] | str | PurePath
"""A config: itself, its keys and values, the name of a preset, or the path of a YAML file."""
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
    """Pre-train as `config` says, from its newest checkpoint if it has one; returns once the run is complete.

    A script that calls this may be started by torchrun, as `esvit.train` itself.

    Args:
        config: One, or several, of which later ones win key by key. May be left out where there are `images`.
        images: Local folder of images, at any depth and without labels. Their shards are built, or found again, in the
            cache of this user. Without a config, a preset is chosen that suits the machine and the number of images.
        on_step: Called after every step, on every rank.
        on_checkpoint: Called after a checkpoint has been written, on the main rank.
        overrides: Settings, by key: `seed=1`, `schedule={"epochs": 6}` or `**{"schedule.epochs": 6}`.

    Raises:
        UserError: the run cannot start, and nothing was written; or it has diverged or collapsed.
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
    """All settings of a run: those of `config`, then `overrides`, as `train` takes them or as text, `key=value`.

    Raises:
        ConfigError: a file, a key or a value is wrong.
    """
    return _loaded(TrainConfig, config, overrides)


def resolved_for_images(
    folder: str | PurePath, config: Given | Sequence[Given] = (), overrides: Overrides = (), *, build: bool = True
) -> TrainConfig:
    """All settings of a run on the images of a local folder, whose shards are built, or found again, in the cache.

    A config that is given takes the place of a preset. Without one, a run that has begun goes on with its own settings,
    and a new one gets the preset that suits this machine, fitted to the number of images. Standard error says which.

    Args:
        build: False to leave out the building, where nothing is to be read.

    Raises:
        UserError: a setting is wrong, or the folder has no images or too few; nothing was built. Or it cannot be built.
    """
    images = scan(str(folder))
    stream = {"data": {"stream": {"shards": str(images.cached)}}}
    num_images = images.num_images

    def settle() -> tuple[TrainConfig, str]:
        sources, reason = _sources(num_images, config, overrides)
        return resolved([*sources, stream], overrides), reason

    found, reason = settle()
    if found.data.stream.shards != str(images.cached):
        raise ImagesError(f"the images of {folder} and data.stream.shards cannot both be trained on; give one of them")
    if build:
        num_images = build_shards(images)
        found, reason = settle()
    say_once(reason)
    return found


class _Where(Config):
    """What of a run decides on its preset, or follows from it."""

    model_config = ConfigDict(extra="ignore")

    output: str = ""
    device: str = "auto"


def _sources(num_images: int, config: Given | Sequence[Given], overrides: Overrides) -> tuple[Sequence[Given], str]:
    """The settings below `overrides`, and where they come from."""
    if given := _list(config):
        return given, f"for {num_images:,} images: the settings that were given"
    fitted = fit(num_images, this_machine(_loaded(_Where, [], overrides).device))
    written = Path(_loaded(_Where, [fitted.preset], overrides).output) / "config.yaml"
    if written.exists():
        return [written], f"this run has begun, and goes on with the settings in {written}"
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
        return given.model_dump(exclude_unset=True)  # defaults are to fit what is given beside it
    return _plain(given) if isinstance(given, Mapping) else presets.path_of(str(given))


def _plain(value: Any) -> Any:
    """Paths as text, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
