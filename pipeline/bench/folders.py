"""Where a bench keeps the shards that it fetches."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


class FolderError(UserError):
    """A folder cannot be used."""


@contextmanager
def cache_folder(path: Path | None) -> Iterator[Path]:
    """The folder given, which is made if need be; None is a temporary one.

    Raises:
        FolderError: it cannot be made.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot use --cache-dir {path}: {error.strerror}") from None
    yield path
