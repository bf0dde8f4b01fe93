"""Folders of this user alone, for caches: nobody else can put a file there, or a link in the place of the folder."""

import errno
import os
import stat
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Create the folder if it is missing, and take all rights to it from other users.

    Links above the folder are followed, since `~/.cache` is often a link to a larger disk.

    Raises:
        OSError: the folder is a link or a file, or cannot be created; it belongs to another user; or another user has
            made it, or a folder above it, in a place where everybody may write, such as /tmp.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (path, *path.absolute().parents):
        if _is_planted(part):
            raise _refusal(part, "another user has made it, where everybody may write")
    if path.is_symlink():
        raise _refusal(path, "it is a link")
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise _refusal(path, "it belongs to another user")
        os.fchmod(folder, 0o700)
    finally:
        os.close(folder)
    return path


def _refusal(path: Path, reason: str) -> OSError:
    return PermissionError(errno.EPERM, f"{reason}; choose another cache folder", str(path))


def _is_planted(path: Path) -> bool:
    """Whether another user, not root, made this file, folder or link in a folder like /tmp."""
    above = path.parent.stat().st_mode
    return bool(above & stat.S_ISVTX and above & stat.S_IWOTH) and path.lstat().st_uid not in (0, os.geteuid())
