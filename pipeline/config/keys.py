"""Every key of a config class: its dotted name, type, unit, default and meaning, read from the code.

The meaning of a key is its entry in the `Attributes` of the class. The unit is in parentheses in that entry
(`size (pixels): Side of the square view.`) or is the end of the name (`watchdog_s`). The meaning of a section is the
first paragraph of its class. Keys of sections in a list have `[]` in their name: `augment.views[].size`.
"""

import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from pipeline.nearest import nearest

_UNITS = {
    "epoch": "epochs",
    "epochs": "epochs",
    "steps": "steps",
    "bytes": "bytes",
    "mib": "MiB",
    "s": "seconds",
    "batches": "batches",
    "threads": "threads",
    "shards": "shards",
}
"""The unit by the last word of a key."""
_ENTRY = re.compile(r"^    (\w+)(?: \(([^)]+)\))?: (.*)$")
_BASIC = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "ByteSize": "whole number",
    "NoneType": "null",
    "Any": "anything",
    "dict": "mapping",
}
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        default: The default in YAML. Empty for a section.
        has_value: Whether `default` is a value. If not, it is text: the key is required, or its default depends on
            other keys.
        section: The config class, if the key is a section or a list of sections.
    """

    name: str
    kind: str
    unit: str
    default: str
    has_value: bool
    meaning: str
    section: type[BaseModel] | None = None


def keys_of(schema: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """All keys of `schema`, each section before its keys."""
    entries = _entries(schema)
    for name, field in schema.model_fields.items():
        section = _section(field.annotation)
        unit, meaning = entries.get(name, ("", ""))
        if section is not None and not meaning:
            meaning = first_words(section)
        kind = _type(field.annotation, field.metadata)
        if "number" in kind:
            unit = unit or _UNITS.get(name.rpartition("_")[2], "")
        is_words = field.is_required() or field.default_factory not in (None, dict)
        has_value = not is_words and not isinstance(field.default, BaseModel)
        yield Key(prefix + name, kind, unit, _default(field), has_value, meaning, section)
        if section is not None:
            yield from keys_of(section, f"{prefix}{name}[]." if "list of" in kind else f"{prefix}{name}.")


def first_words(section: type[BaseModel]) -> str:
    """The first paragraph of the docstring of a config class, as one line."""
    return (inspect.getdoc(section) or "").partition("\n\n")[0].replace("\n", " ")


def similar(wrong: str, schema: type[BaseModel]) -> list[str]:
    """Suggestions for a mistyped dotted key: the same name in another section, or a similar spelling."""
    known = [key.name for key in keys_of(schema)]
    section, _, name = wrong.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    beside = nearest(name, (key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section))
    if elsewhere or not beside:
        return elsewhere or [key for key in nearest(wrong, known)[:1] if key != section]
    return [f"{section}.{beside[0]}" if section else beside[0]]


def _entries(schema: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Unit and meaning of each key in the docstring's `Attributes`."""
    _, _, block = (inspect.getdoc(schema) or "").partition("\nAttributes:\n")
    entries: dict[str, tuple[str, str]] = {}
    name = ""
    for line in block.splitlines():
        if found := _ENTRY.match(line):
            name = found[1]
            entries[name] = (found[2] or "", found[3])
        elif name and line.startswith("     "):
            unit, meaning = entries[name]
            entries[name] = (unit, f"{meaning} {line.strip()}")
        else:
            name = ""
    return entries


def _section(annotation: Any) -> type[BaseModel] | None:
    """The config class in a type: the type itself, or the type of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [section for part in get_args(annotation) if (section := _section(part))]
    return found[0] if found else None


def _type(annotation: Any, metadata: Any = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], parts[1:])
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of: {_type(parts[0])}"
        return f"[{', '.join(_type(part) for part in parts)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    name = _BASIC[getattr(origin or annotation, "__name__", "Any")]
    return f"{name} {' and '.join(_bounds(metadata))}".rstrip()


def _bounds(metadata: Any) -> list[str]:
    """Bounds as text: ["> 0", "≤ 1"]."""
    flat = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
    pairs = [(bound, name) for bound in flat for name in _BOUNDS if hasattr(bound, name)]
    return [f"{_BOUNDS[name]} {getattr(bound, name):g}" for bound, name in pairs]


def _default(field: FieldInfo) -> str:
    """The default as YAML; if it depends on other keys, the docstring of its function."""
    if field.is_required():
        return "required"
    if field.default_factory is dict:
        return "{}"
    if field.default_factory is not None:
        return inspect.getdoc(field.default_factory) or ""
    if isinstance(field.default, BaseModel):
        return ""
    value = int(field.default) if isinstance(field.default, ByteSize) else field.default
    if isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return str(flow).removesuffix("\n...\n").strip()
