"""Configuration: frozen pydantic models, YAML files merged left to right, then `--set a.b=c`.

The config class of a component is in the file of the component; the root config is in the entry script. Unknown keys
are errors.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.keys import keys_of, similar
from pipeline.config.plain_values import MAX_CHARACTERS, fault_of
from pipeline.errors import UserError
from pipeline.nearest import did_you_mean, nearest

_CHOICE = re.compile(r"'([^']*)'")  # in pydantic's message about a Literal

_MAX_SHOWN = 200  # characters of a value or key in a message


class ConfigError(UserError):
    """A config file or a `--set` override is wrong; the message names the key."""


class Config(BaseModel):
    """Base of every config class: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; it is validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def with_defaults(self, **defaults: Any) -> Self:
        """A copy with other defaults: a field that was not set explicitly gets the value given here."""
        changes = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        copy = type(self).model_construct(self.model_fields_set, **{**dict(self), **changes})
        return cast(Self, copy)  # pydantic's plugin for mypy gives it the class that this method is written in


C = TypeVar("C", bound=Config)
Source = str | Path | Mapping[str, Any]
"""A YAML file, or its content as a mapping."""


def load(schema: type[C], sources: Sequence[Source], overrides: Sequence[str] = ()) -> C:
    """Merge `sources` left to right, apply `overrides` (`a.b=value`, the value in YAML) and validate as `schema`.

    Raises:
        ConfigError: a file is missing or not YAML, an override is malformed, or a key or value does not fit.
    """
    merged: dict[str, Any] = {}
    given = [source if isinstance(source, Mapping) else _read_yaml(Path(source)) for source in sources]
    for content in [*given, *map(_parse_override, overrides)]:
        if fault := fault_of(content):
            raise ConfigError(fault)
        merged = _merged(merged, content)
    try:
        return schema.model_validate(merged)
    except ValidationError as error:
        # Mistyped keys first: a missing key is often a consequence of one. A default that depends on a wrong key is
        # only a consequence too, so it is left out.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        primary = [problem for problem in problems if problem["type"] != "default_factory_not_called"]
        raise ConfigError("; ".join(_explain(problem, schema) for problem in primary)) from None


def save(config: Config, path: str | Path) -> None:
    """Write the resolved config as YAML; `load` accepts it back."""
    Path(path).write_text(dump(config))


def dump(config: Config) -> str:
    """The resolved config as YAML text, keys in the order of their declaration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open() as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, or no path
        raise ConfigError(f"config file {path} is not valid YAML: {error}") from None
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"config file {path} has more than {MAX_CHARACTERS:,} characters")
    try:
        content = yaml.safe_load(text)
    except Exception as error:  # PyYAML and its constructors raise many kinds of errors
        raise ConfigError(f"config file {path} is not valid YAML: {_shortened(' '.join(str(error).split()))}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys to values")
    return content


def _parse_override(override: str) -> dict[str, Any]:
    dotted, separator, text = override.partition("=")
    if not separator or not all(dotted.split(".")):
        raise ConfigError(f"override '{_shortened(override)}' is not of the form key.subkey=value")
    try:
        value: Any = yaml.safe_load(text)
    except Exception:  # as above
        raise ConfigError(f"override '{_shortened(override)}': the value is not valid YAML") from None
    return nested(dotted, value)


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """`value` below its dotted key: `nested("a.b", 1)` is `{"a": {"b": 1}}`."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, key by key. Neither is changed: with a YAML alias two keys share one value."""
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return result


def _explain(problem: Any, schema: type[Config]) -> str:
    """Pydantic's error as a sentence: the dotted key, the mistake, and a suggestion."""
    # Pydantic adds the tags of a union to the path. Ours are in parentheses; users have not written them.
    parts = [part for part in map(str, problem["loc"]) if not part.startswith("(")]
    key, kind, given = ".".join(parts), problem["type"], problem["input"]
    what: str = problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"unknown config key '{_shortened(key)}'" + _suggestion(key, schema)
    if kind == "missing":
        return f"config key '{key}' is required"
    where = "" if not key or what.startswith(key) else f"config key '{key}': "
    if kind == "value_error":  # our own message, which names the wrong value
        return where + what
    ending = did_you_mean(nearest(str(given), _CHOICE.findall(what))) if kind == "literal_error" else ""
    return f"{where}{what} (got {_shortened(reprlib.repr(given))}){ending}"


def _shortened(text: str) -> str:
    """The beginning of a text that may be very long."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _suggestion(key: str, schema: type[Config]) -> str:
    """The key that was probably meant; if there is none, the keys of the section."""
    general = re.sub(r"\.\d+\b", "[]", key)  # a place in a list
    if found := similar(general, schema):
        return did_you_mean(found)
    section = general.rpartition(".")[0]
    beside = [name for name in (k.name for k in keys_of(schema)) if name.rpartition(".")[0] == section]
    return f"; {section or 'a config'} has {', '.join(name.rpartition('.')[2] for name in beside)}" if beside else ""
