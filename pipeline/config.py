"""Configuration: frozen pydantic models, YAML files merged left to right, then `--set a.b=c`.

A component owns its config class beside it; the root config sits in the entry script. Unknown keys are errors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError


class ConfigError(UserError):
    """A config file or a `--set` override is wrong; the message names the key."""


class Config(BaseModel):
    """Base of every config class: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})


C = TypeVar("C", bound=Config)


def load(schema: type[C], files: Sequence[str | Path], overrides: Sequence[str] = ()) -> C:
    """Read `files` left to right, apply `overrides` (`a.b=value`, the value in YAML) and validate as `schema`.

    Raises:
        ConfigError: a file is missing or not YAML, an override is malformed, or a key or value does not fit.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(merged, _read_yaml(Path(file)))
    for override in overrides:
        _merge(merged, _parse_override(override))
    try:
        return schema.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def save(config: Config, path: str | Path) -> None:
    """Write the resolved config as YAML; `load` accepts it back."""
    Path(path).write_text(dump(config))


def dump(config: Config) -> str:
    """The resolved config as YAML text, keys in the order of their declaration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys to values")
    return content


def _parse_override(override: str) -> dict[str, Any]:
    dotted, separator, text = override.partition("=")
    if not separator or not all(dotted.split(".")):
        raise ConfigError(f"override '{override}' is not of the form key.subkey=value")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override '{override}': the value is not valid YAML") from None
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError) -> str:
    """One sentence from pydantic's list: the dotted key and what is wrong with it."""
    problems = []
    for item in error.errors():
        # The tags of a union, which pydantic adds to the path, are in parentheses here; users have not written them.
        key = ".".join(part for part in map(str, item["loc"]) if not part.startswith("(")) or "config"
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown config key '{key}'")
        elif item["type"] == "missing":
            problems.append(f"config key '{key}' is required")
        else:
            problems.append(f"config key '{key}': {item['msg']} (got {item['input']!r})")
    return "; ".join(problems)
