"""What a config may contain: text, numbers, true, false, null, lists and mappings, of a size that people write.

YAML has more: dates, bytes, sets, and aliases with which a short file becomes a value without end.
"""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.printable import has_secret

MAX_CHARACTERS = 1_000_000
"""Of a config file."""
_MAX_DEPTH = 30
_MAX_VALUES = 100_000
_NOT_PLAIN = {datetime.date: "a date", datetime.datetime: "a date", bytes: "binary data", set: "a set"}


def fault_of(content: Mapping[str, Any]) -> str | None:
    """The first fault of a config as a sentence that names the key; None if all its values are plain."""
    for number, (key, fault) in enumerate(_checked("", content, 0)):
        if fault:
            return f"config key '{key.lstrip('.')}' {fault}"
        if number >= _MAX_VALUES:
            return f"a config has at most {_MAX_VALUES:,} values; does a YAML alias repeat too much?"
    return None


def _checked(key: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Every value with its dotted key, and its fault or ""."""
    fault = _fault(value, depth)
    yield key, fault
    if isinstance(value, Mapping) and not fault:
        for name, item in value.items():
            yield f"{key}.{name}", "" if isinstance(name, str) else "is no text; put the key in quotes"
            yield from _checked(f"{key}.{name}", item, depth + 1)
    elif isinstance(value, list | tuple) and not fault:
        for place, item in enumerate(value):
            yield from _checked(f"{key}.{place}", item, depth + 1)


def _fault(value: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return f"is nested more than {_MAX_DEPTH} levels deep"
    if kind := _NOT_PLAIN.get(type(value)):
        return f"is {kind} in YAML; put it in quotes if it is text"
    if isinstance(value, str) and "\0" in value:
        return "contains a NUL character"
    if isinstance(value, str) and has_secret(value):
        return (
            "contains a password, a key or a signature, which would be in logs and checkpoints; give it in the "
            "environment or in ~/.aws/credentials"
        )
    return ""
