"""SHA-256, the only hash of the project: of bytes, of files, and of streams while they are written."""

import hashlib
from pathlib import Path
from typing import BinaryIO


def sha256_bytes(data: bytes) -> str:
    """The hash in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """The hash of a file's content in lower-case hex; the file is streamed, never held in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashingWriter:
    """A binary file that hashes and counts the bytes written to it, so that no second pass is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    @property
    def hexdigest(self) -> str:
        """The hash of all bytes so far, in lower-case hex."""
        return self._hash.hexdigest()
