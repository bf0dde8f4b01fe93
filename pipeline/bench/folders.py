"""The folder in which a bench keeps the shards that it fetches."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


class FolderError(UserError):
    """A folder cannot be used."""


@contextmanager
def cache_folder(path: Path | None) -> Iterator[Path]:
    """The folder `path`, created if missing; for None, a temporary folder.

    Raises:
        FolderError: the folder cannot be created.
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
