"""A shard that claims more than it holds, or holds other things than files, is refused in bounded memory."""

import resource
from pathlib import Path

import pytest

from pipeline.format.members import TarError
from pipeline.format.shard_table import ShardEntry
from pipeline.format.sidecars import shard_sidecars
from pipeline.format.tar import ShardWriter, iter_samples, parse_sample
from support.bombs import BOMBS, END, IMAGE, LABEL, member, memory_limit


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(BOMBS[kind])
    with memory_limit(), pytest.raises(TarError, match=r"a\.tar") as caught:
        list(iter_samples(tmp_path / "a.tar"))
    assert len(str(caught.value)) < 400
    with memory_limit(), pytest.raises(TarError, match=r"a\.tar"):
        parse_sample(BOMBS[kind], 0, "a.tar")


def test_a_huge_claim_is_named() -> None:
    for claim in (2**28 + 1, 2**62):
        with pytest.raises(TarError, match=rf"member a\.jpg claims {claim} bytes, more than 268435456"):
            parse_sample(member("a.jpg", b"x", claim=claim), 0, "a.tar")


def test_a_name_that_is_no_text_is_no_sample() -> None:
    data = bytearray(member("a.jpg", b"x"))
    data[0], data[148:156] = 0xFF, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(TarError, match=r"a\.tar has no sample at byte 0: .*codec can't decode"):
        parse_sample(bytes(data), 0, "a.tar")


@pytest.mark.parametrize("kind", ["a sparse image", "a header of 20 GB", "a link outside", "a file of 4 EB"])
def test_the_indexes_of_a_bomb_are_not_made(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(BOMBS[kind])
    with ShardWriter(tmp_path / "good.tar") as writer:
        writer.add("a", "jpg", b"x", 0, 1, 1, 1)
    entry = ShardEntry(name="a", num_bytes=1, num_samples=1, digest="", index_digest="")
    with memory_limit(), pytest.raises(TarError, match=r"a\.tar"):
        shard_sidecars(entry, tmp_path / "a.tar", writer.index)


@pytest.mark.timeout(20)
def test_a_size_below_zero_does_not_lead_back() -> None:
    data = bytearray(member("a.jpg", b"x"))
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512: the next header would be this one
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(TarError, match=r"member a\.jpg claims -512 bytes"):
        parse_sample(bytes(data), 0, "a.tar")


@pytest.mark.parametrize("key", ["../x", "/abs", "A", "\x1b[2J", "a b", ""], ids=ascii)
def test_a_key_is_never_a_path(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(member(f"{key}.jpg", b"x") + END)
    with pytest.raises(TarError, match=r"does not have the name of a sample|is not followed by the image") as caught:
        list(iter_samples(tmp_path / "a.tar"))
    assert str(caught.value).isprintable()


def test_the_limit_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(LABEL + IMAGE + END)
    with memory_limit():
        assert [sample.key for sample in iter_samples(tmp_path / "a.tar")] == ["a"]
        with pytest.raises(MemoryError):
            bytes(2**30)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
