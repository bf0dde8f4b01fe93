"""The training configs that come with the package, found by name: `swin_tiny_w7` is `configs/train/swin_tiny_w7.yaml`.

In a checkout `esvit/configs` is a link to that folder, in a wheel it is a copy.
"""

from pathlib import Path

from pipeline.config import ConfigError
from pipeline.nearest import did_you_mean, nearest

_FOLDER = Path(__file__).parents[1] / "configs"
_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def path_of(config: str | Path) -> Path:
    """The file of the preset `config` or, if there is no such preset, the file at the path `config`.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(config)
    is_word = path.name == str(config) and path.suffix not in _SUFFIXES
    if is_word and path.name in names():
        return _FOLDER / f"{path.name}.yaml"
    if path.is_file():
        return path
    if is_word:
        similar = did_you_mean(nearest(path.name, names())) or f"; the presets are {', '.join(names())}"
        raise ConfigError(f"there is no preset '{config}', and no file of that name{similar}")
    preset = f"; there is a preset of that name: '{path.stem}'" if path.stem in names() else ""
    raise ConfigError(f"cannot read config file {config}: there is no such file{preset}")
