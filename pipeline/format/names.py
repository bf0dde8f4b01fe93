"""Names that come from data, for example from a manifest: checked once, so that a name is never a path.

A hostile manifest may call a shard `../../.ssh/authorized_keys` or `/etc/cron.d/x`. Fields for names have the type
`FileName`, and whoever joins such a name to a folder uses `inside`.
"""

import re
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.errors import UserError

_LONGEST = 200  # characters: a file system takes 255 bytes, suffix included
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")
_SHOWN = 40
_IS_ALLOWED = np.array([bool(re.fullmatch("[A-Za-z0-9._-]", chr(code))) for code in range(256)])
_MAY_BE_FIRST = np.array([bool(re.fullmatch("[A-Za-z0-9_]", chr(code))) for code in range(256)])


class UnsafeNameError(UserError):
    """A name from data cannot be the name of a file."""


def checked_name(name: str) -> str:
    """The name, if it can be the name of a file in any folder, and of an object in any store.

    Raises:
        UnsafeNameError: it is empty or too long, begins with a dot or a dash, or has other characters than letters,
            digits, dots, dashes and underscores of ASCII.
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]} ..."
        raise UnsafeNameError(
            f"{shown!r} cannot be the name of a file: a name has 1 to {_LONGEST} of the characters A-Z, a-z, 0-9, "
            "'_', '-' and '.', and begins with none of the last two"
        )
    return name


def first_unsafe(names: NDArray[np.bytes_]) -> str | None:
    """The first name of an array that `checked_name` would refuse; None if there is none. For 500,000 names at once."""
    width = names.dtype.itemsize
    characters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), width)
    present = characters != 0
    is_safe = np.where(present, _IS_ALLOWED[characters], True).all(axis=1) & _MAY_BE_FIRST[characters[:, 0]]
    is_safe &= ~(present[:, 1:] & ~present[:, :-1]).any(axis=1)  # a NUL inside
    is_safe &= present.sum(axis=1) <= _LONGEST
    return None if is_safe.all() else names[int(np.argmin(is_safe))].decode("utf-8", "backslashreplace")


FileName = Annotated[str, AfterValidator(checked_name)]
"""The type of a field for a name from data."""


def inside(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`.

    Raises:
        UnsafeNameError: see `checked_name`.
    """
    return folder / checked_name(name)
