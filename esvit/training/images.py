"""Build shards from a plain folder of images: once, in the user's cache; later runs find them there.

    ~/.cache/esvit-streaming/images/NAME-KEY/      or below $XDG_CACHE_HOME

The key is a digest of the folder's path and of the name, size and time of every image. So a changed folder is built
again, and an unchanged folder is not. The trainer knows the builder only by its command line and runs it as a separate
process.
"""

import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esvit.launcher import end_with
from pipeline.console.lines import write_note
from pipeline.errors import UserError
from pipeline.format.manifest import MANIFEST_NAME
from pipeline.shards.data_sets import open_data_set
from pipeline.store.private import private_folder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of the files that the builder takes for images, in upper or lower case."""
MAX_REJECTED_SHARE = 0.5
"""Largest share of broken images in a folder. Broken images are left out and counted; if most are broken, something
else is wrong."""

_BUILDER = [sys.executable, "-P", "-m", "tools.shard_builder"]  # -P: ignore a `tools` in the current folder
_BUILD = ["build", "--dataset", "image-folder", "--unlabelled"]
_SPLIT = "images"


class ImagesError(UserError):
    """The folder does not exist or holds no images, or its shards cannot be built."""


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder, at any depth."""

    path: Path
    """Absolute path, links resolved."""
    num_images: int
    num_bytes: int
    """Total size of the images."""
    digest: str
    """Digest of the names, sizes and times of the images."""

    @property
    def cached(self) -> Path:
        """Folder of the shards, built or not."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        name = re.sub(r"[^a-z0-9_-]+", "-", self.path.name.lower())[:40]
        key = hashlib.sha256(os.fsencode(self.path) + self.digest.encode() + shlex.join(_BUILD).encode())
        return Path(cache).expanduser() / "esvit-streaming" / "images" / f"{name}-{key.hexdigest()[:16]}"


def scan(folder: str | Path) -> ImageFolder:
    """List the images below `folder`, without names that begin with a dot.

    Raises:
        ImagesError: the folder does not exist, cannot be read, or holds no image.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ImagesError(f"there is no folder {folder}; --images takes a local folder of images")
    digest = hashlib.sha256()
    num_images = num_bytes = 0
    try:
        for file in _files(path):
            if not file.name.lower().endswith(SUFFIXES):
                continue  # the builder counts them
            found = file.stat()
            num_images, num_bytes = num_images + 1, num_bytes + found.st_size
            name = os.fsencode(os.path.relpath(file.path, path))
            digest.update(b"%s\0%d\0%d\0" % (name, found.st_size, found.st_mtime_ns))
    except OSError as error:  # no permission, or a link that leads nowhere
        raise ImagesError(f"cannot read {error.filename}: {error.strerror}") from None
    if (path / MANIFEST_NAME).exists() and not num_images:
        raise ImagesError(f"{folder} holds shards, not images; use --set data.stream.shards={folder}")
    if not num_images:
        raise ImagesError(f"{folder} holds no images: no {', '.join(SUFFIXES)}")
    return ImageFolder(path, num_images, num_bytes, digest.hexdigest())


def _files(folder: str | Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator["os.DirEntry[str]"]:
    """Files in sorted order, so that the digest depends on the content alone. Links to folders above are skipped."""
    status = os.stat(folder)
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield entry
            elif (entry.stat().st_dev, entry.stat().st_ino) not in above:
                yield from _files(entry.path, above)


def build_shards(folder: ImageFolder) -> int:
    """Build the shards of `folder` unless they are in the cache. Returns the number of images in the shards.

    Of several processes, e.g. the ranks of a node, one builds and the others wait.

    Raises:
        ImagesError: the builder refused; the message is the builder's.
    """
    dest = folder.cached
    with _lock(dest.with_name(f"{dest.name}.lock")):
        if not (dest / MANIFEST_NAME).exists():
            _say(f"building shards of {folder.path}, {folder.num_bytes / 1e6:,.1f} MB")
            began_s = time.monotonic()
            _build(folder, dest)
            _say(f"built in {time.monotonic() - began_s:.1f} s")
    manifest = open_data_set(str(dest)).manifest
    say_once(f"{manifest.num_samples:,} images of {folder.path} are in {dest}")
    if manifest.num_rejects:
        say_once(f"images left out: {manifest.num_rejects:,}, each with its reason in {dest}/rejects.jsonl")
    return manifest.num_samples


def say_once(line: str) -> None:
    """Print a line on standard error, from the first rank only."""
    if os.environ.get("RANK", "0") == "0":
        _say(line)


def _say(line: str) -> None:
    write_note(f"images: {line}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock `path`; wait for other processes. The kernel releases the lock of a dead process."""
    try:
        private_folder(path.parent)
        file = path.open("ab")
    except OSError as error:
        raise ImagesError(f"cannot use the cache {path.parent}: {error.strerror}; set XDG_CACHE_HOME") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: ImageFolder, dest: Path) -> None:
    """Run the builder. Its progress goes to our standard error; its error is raised as ours."""
    # The builder takes only the sub-folder of a split. So a link presents the whole folder as one split.
    source = dest.with_name(f"{dest.name}.source")
    source.mkdir(exist_ok=True)
    (source / _SPLIT).unlink(missing_ok=True)
    (source / _SPLIT).symlink_to(folder.path)
    max_rejects = int(folder.num_images * MAX_REJECTED_SHARE) + 1
    options = {"--source": source, "--split": _SPLIT, "--dest": dest, "--max-rejects": max_rejects}
    command = [*_BUILDER, *_BUILD, *(str(word) for option in options.items() for word in option)]
    sentence = ""
    end_with_us = partial(end_with, os.getpid())
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=end_with_us,
    ) as builder:
        assert builder.stderr is not None
        for line in builder.stderr:
            if line.startswith("error: "):
                sentence = line.removeprefix("error: ").strip()
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
    if builder.returncode:
        raise ImagesError(sentence or f"building shards ended with status {builder.returncode}: {shlex.join(command)}")
