"""Atomic writes on a local disk: a file appears whole or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".part"
"""The end of the names of unfinished files and folders."""

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}  # another file system, or one without links


def is_partial(name: str) -> bool:
    """Whether this is an unfinished file: it is still being written, or its writer was killed."""
    return any(part.endswith(PARTIAL) for part in name.split("/"))


@contextlib.contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A temporary folder for the block: inside `parent`, where it counts as partial; for None, in `TMPDIR`."""
    if parent:
        _make_folder(parent)
    with tempfile.TemporaryDirectory(prefix=".scratch-", suffix=PARTIAL, dir=parent) as folder:
        yield Path(folder)


def write_file(path: Path, source: bytes | Path, replace: bool) -> None:
    """Write the content of `source` to `path` atomically, and flush it to the disk.

    Without `replace`, a source on the same file system is linked and not copied, so it must not change afterwards.

    Raises:
        FileExistsError: the file exists, and `replace` is not set.
        OSError: the file cannot be written.
    """
    _make_folder(path.parent)
    if isinstance(source, Path) and not replace and _link(source, path):
        return
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            if isinstance(source, bytes):
                file.write(source)
            else:
                with open(source, "rb") as original:
                    shutil.copyfileobj(original, file, 2**20)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(partial, path)
        else:
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is not a folder") from None


def _link(source: Path, path: Path) -> bool:
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        return False
    return True
