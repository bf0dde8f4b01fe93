"""Checksums: XXH3-64 for each image, BLAKE3 for whole files. docs/decisions/0028-format-2.md has the measurements.

XXH3-64 finds accidents at the speed of memory. BLAKE3 is cryptographic: nobody can make other content with the same
digest. Both release the interpreter lock on long input. SHA-256 is left for checkpoints, so that `sha256sum` can check
them.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from xxhash import xxh3_64_intdigest

_READ_BYTES = 2**20

Readable = bytes | bytearray | memoryview


def checksum(content: Readable) -> int:
    """XXH3-64, as an unsigned integer."""
    return xxh3_64_intdigest(content)


def digest_bytes(content: Readable) -> str:
    """BLAKE3, in lower-case hex."""
    return blake3(content).hexdigest()


def digest_file(path: str | Path) -> str:
    """BLAKE3 of a file's content, in lower-case hex. The file is streamed, never held in memory."""
    digest, buffer = blake3(), memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        while num_bytes := file.readinto(buffer):
            digest.update(buffer[:num_bytes])
    return digest.hexdigest()


def sha256_bytes(content: Readable) -> str:
    """SHA-256, in lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content, in lower-case hex. The file is streamed, never held in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestingWriter:
    """A binary file that digests and counts the bytes written to it, so that no second pass is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = blake3()
        self.num_bytes = 0

    def write(self, data: Readable) -> int:
        self._digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        """BLAKE3 of all bytes so far, in lower-case hex."""
        return self._digest.hexdigest()
