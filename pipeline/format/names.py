"""Names that come from data, for example from a manifest: checked once, so that a name is never a path.

A hostile manifest may call a shard `../../.ssh/authorized_keys` or `/etc/cron.d/x`. Fields for names have the type
`FileName`, and whoever joins such a name to a folder uses `inside`.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pipeline.errors import UserError

_LONGEST = 200  # characters: a file system takes 255 bytes, suffix included
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")
_SHOWN = 40


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


FileName = Annotated[str, AfterValidator(checked_name)]
"""The type of a field for a name from data."""


def inside(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`.

    Raises:
        UnsafeNameError: see `checked_name`.
    """
    return folder / checked_name(name)
