"""Tars that claim more than they hold, and a limit of memory under which they are read."""

import contextlib
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path

END = bytes(1024)


@contextlib.contextmanager
def memory_limit(num_bytes: int = 2**29) -> Iterator[None]:
    """Within the block this process may take so much more memory; what asks for more gets a `MemoryError`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", claim: int = -1) -> bytes:
    """A file in a tar: its header, which claims `claim` bytes if that is given, and its content."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if claim >= 0:
        header[124:136] = b"\x80" + claim.to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def extended(**records: str) -> bytes:
    """An extended header (pax) with these records, for the next file; `__` in a name is a dot."""
    content = b""
    for name, value in records.items():
        rest = f" {name.replace('__', '.')}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        content += str(length).encode() + rest
    return member("x", content, tarfile.XHDTYPE)


def sparse(name: str, num_bytes: int) -> bytes:
    """A sparse file of a few bytes that is `num_bytes` long when it is read."""
    facts = {"GNU__sparse__major": "1", "GNU__sparse__minor": "0", "GNU__sparse__name": name}
    return extended(**facts, GNU__sparse__realsize=str(num_bytes)) + member(name, b"1\n0\n0\n".ljust(512, b"\0"))


LABEL, IMAGE = member("a.cls", b"0"), member("a.jpg", b"\xff\xd8\xff\xd9")
HUGE = 20 * 10**9

BOMBS: dict[str, bytes] = {
    "a sparse image": LABEL + sparse("a.jpg", HUGE),
    "a sparse label": sparse("a.cls", HUGE) + IMAGE,
    "a file of 20 GB": LABEL + member("a.jpg", b"x", claim=HUGE),
    "a file of 4 EB": LABEL + member("a.jpg", b"x", claim=2**62),
    "a header of 20 GB": member("x", b"", tarfile.XHDTYPE, claim=HUGE),
    "a header of 4 EB": member("x", b"", tarfile.XHDTYPE, claim=2**62),
    "a name of 20 GB": member("././@LongLink", b"", tarfile.GNUTYPE_LONGNAME, claim=HUGE),
    "a label of 5,000 digits": member("a.cls", b"9" * 5000) + IMAGE,
    "a label of 4,000 digits": member("a.cls", b"9" * 4000) + IMAGE,
    "labels of 4,000 digits": member("a.json", b'{"labels": [' + b"9" * 4000 + b"]}") + IMAGE,
    "deep JSON": member("a.json", b"[" * 100_000) + IMAGE,
    "a size of 5,000 digits": extended(size="9" * 5000) + IMAGE,
    "a record of 5,000 digits": member("x", b"9" * 5000 + b" size=3\n", tarfile.XHDTYPE) + IMAGE,
    "a link to itself": member("a.jpg", b"", tarfile.SYMTYPE, "a.jpg"),
    "a hard link to itself": member("a.jpg", b"", tarfile.LNKTYPE, "a.jpg"),
    "links in a circle": member("a.cls", b"", tarfile.SYMTYPE, "a.jpg")
    + member("a.jpg", b"", tarfile.SYMTYPE, "a.cls"),
    "a link outside": LABEL + member("a.jpg", b"", tarfile.SYMTYPE, "/etc/passwd"),
    "a device": LABEL + member("a.jpg", b"", tarfile.CHRTYPE),
    "a pipe": LABEL + member("a.jpg", b"", tarfile.FIFOTYPE),
    "3,000 headers in a row": extended(a="b") * 3000 + IMAGE,
    "3,000 long names": member("././@LongLink", b"a\0", tarfile.GNUTYPE_LONGNAME) * 3000 + IMAGE,
}
"""Kind -> the bytes of a tar."""
BOMBS = {kind: content + END for kind, content in BOMBS.items()}
