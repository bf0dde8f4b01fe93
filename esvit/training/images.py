"""From a plain folder of images to shards: built once, in the cache of this user, and found again by every later run.

    ~/.cache/esvit-streaming/images/NAME-KEY/      or below $XDG_CACHE_HOME

The key follows from the path of the folder and from the name, size and time of every image in it. So a folder that
changed is built anew, and one that did not is not built twice. The trainer knows the builder by its command line only,
so it runs as a process of its own.
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
from pathlib import Path

from pipeline.errors import UserError
from pipeline.format.manifest import MANIFEST_NAME
from pipeline.shards.data_sets import open_data_set

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of the files that the builder takes for images, in any case."""
MAX_REJECTED_SHARE = 0.5
"""Of the images of a folder. Some broken ones are left out and counted; where most are, something else is wrong."""

_BUILDER = [sys.executable, "-P", "-m", "tools.shard_builder"]  # -P: not the `tools` of the folder we are in
_BUILD = ["build", "--dataset", "image-folder", "--unlabelled"]
_SPLIT = "images"


class ImagesError(UserError):
    """The folder is not there or holds no images, or its shards cannot be built."""


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds, at any depth."""

    path: Path
    """Absolute, without links."""
    num_images: int
    num_bytes: int
    """Of the images."""
    digest: str
    """Of names, sizes and times of the images."""

    @property
    def cached(self) -> Path:
        """Where its shards are, or will be."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        name = re.sub(r"[^a-z0-9_-]+", "-", self.path.name.lower())[:40]
        key = hashlib.sha256(os.fsencode(self.path) + self.digest.encode() + shlex.join(_BUILD).encode())
        return Path(cache).expanduser() / "esvit-streaming" / "images" / f"{name}-{key.hexdigest()[:16]}"


def scan(folder: str | Path) -> ImageFolder:
    """Look at every file below `folder`, but at no name that begins with a dot.

    Raises:
        ImagesError: there is no such folder, it cannot be read, or there is no image in it.
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
    """In sorted order, so that the digest is one of the content. A link to a folder above is not followed."""
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
    """Make sure that the shards of `folder` are in its `cached` place. Returns how many images they hold.

    Of several processes, the ranks of a node say, one builds and the others wait.

    Raises:
        ImagesError: the builder refused; the message is its own.
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
    """A line on standard error, from the first rank alone."""
    if os.environ.get("RANK", "0") == "0":
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(f"images: {line}\n")
    sys.stderr.flush()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`. The kernel drops the lock of one that dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ImagesError(f"cannot use the cache {path.parent}: {error.strerror}; set XDG_CACHE_HOME") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: ImageFolder, dest: Path) -> None:
    """Run the builder. Its progress goes to our standard error, its error becomes ours."""
    # The builder looks for a split by its name, and would leave out the others. So the whole folder gets one.
    source = dest.with_name(f"{dest.name}.source")
    source.mkdir(exist_ok=True)
    (source / _SPLIT).unlink(missing_ok=True)
    (source / _SPLIT).symlink_to(folder.path)
    max_rejects = int(folder.num_images * MAX_REJECTED_SHARE) + 1
    options = {"--source": source, "--split": _SPLIT, "--dest": dest, "--max-rejects": max_rejects}
    command = [*_BUILDER, *_BUILD, *(str(word) for option in options.items() for word in option)]
    sentence = ""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
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
