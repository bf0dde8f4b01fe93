"""Tar shards: the same input the same bytes, offsets that hold, and no cut that passes unseen."""

import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.format.checksum import checksum, digest_file, sha256_file
from pipeline.format.index import MULTI_LABEL, UNLABELLED, ends
from pipeline.format.tar import ShardWriter, TarError, _header, iter_samples, parse_sample
from support.miniature import write_tar

SAMPLES = [("ant-1", "jpg", b"x" * 700, 0), ("bee-2", "png", b"y" * 512, 1), ("cat-3", "webp", b"z", 12)]


def write(path: Path, samples: list[tuple[str, str, bytes, int]] = SAMPLES) -> ShardWriter:
    with ShardWriter(path) as writer:
        for key, ext, image, label in samples:
            writer.add(key, ext, image, label, height=20, width=30, orientation=6)
    return writer


def test_same_input_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a.tar")
    monkeypatch.setattr("time.time", lambda: 1.0)
    second = write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert first.digest == second.digest == digest_file(tmp_path / "a.tar")
    assert first.num_bytes == (tmp_path / "a.tar").stat().st_size
    assert first.index[["height", "width", "orientation"]].tolist() == [(20, 30, 6)] * 3


def test_golden_hash(tmp_path: Path) -> None:
    """The bytes are part of the format: a new Python or webdataset must not change them."""
    write(tmp_path / "a.tar")
    assert sha256_file(tmp_path / "a.tar") == "ed46a6cf9e26a1ce6fbffae09dfb876aaf6c2f854e5b616a81fff9ae39c98129"


@given(st.from_regex(r"[a-z0-9_-]{1,80}\.(cls|jpg|webp)", fullmatch=True), st.integers(0, 2**32 - 1))
def test_headers_are_those_of_the_standard_library(name: str, num_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = num_bytes, 0o644, "root", "root"
    assert _header(name, num_bytes) == info.tobuf(tarfile.USTAR_FORMAT)


def test_members_are_plain_ustar(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes()[257:265] == b"ustar\x0000"
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        "ant-1.cls", "ant-1.jpg", "bee-2.cls", "bee-2.png", "cat-3.cls", "cat-3.webp",
    ]  # fmt: skip
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in members} == {(0, 0, 0, 0o644, "root", "root")}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2000), st.integers(0, 10**6)), max_size=8))
def test_index_offsets_are_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[bytes, int]]
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    writer = write(path, [(f"k-{i}", "jpg", image, label) for i, (image, label) in enumerate(content)])
    data = path.read_bytes()
    assert [data[row["offset"] :][: row["size"]] for row in writer.index] == [image for image, _ in content]
    assert [checksum(image) for image, _ in content] == writer.index["checksum"].tolist()
    begins = [0, *ends(writer.index).tolist()]
    heads = [data[begin : row["offset"]] for begin, row in zip(begins, writer.index, strict=False)]
    assert list(map(checksum, heads)) == writer.index["head_checksum"].tolist()
    samples = list(iter_samples(path))
    assert [(s.offset, s.image, s.label) for s in samples] == [
        (row["offset"], image, label) for row, (image, label) in zip(writer.index, content, strict=True)
    ]


def test_a_sample_is_parsed_out_of_its_bytes_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    data, samples = (tmp_path / "a.tar").read_bytes(), list(iter_samples(tmp_path / "a.tar"))
    assert parse_sample(data[2560:4608], 2560, "a.tar") == samples[1]
    refused = [
        (data[2560 : 2560 + 1536 + 100], "sample bee-2 is truncated"),
        (data[2560:4096], "sample bee-2 is truncated"),
        (data[:4608], r"a\.tar has 4 files where one sample should be, at byte 0"),
        (data[100:2560], r"a\.tar has no sample at byte 0"),
        (data[2560:4608].replace(b"bee-2", b"bee%2"), r"a\.tar has no sample at byte 0"),
        (b"", r"a\.tar has 0 files"),
    ]
    for part, sentence in refused:
        with pytest.raises(TarError, match=sentence):
            parse_sample(part, 0, "a.tar")


@pytest.mark.parametrize("names", [["K.jpg"], ["a b.jpg"], ["k" * 81 + ".jpg"]])
def test_a_name_outside_the_format_is_no_sample(tmp_path: Path, names: list[str]) -> None:
    write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"x"))
    with pytest.raises(TarError, match="does not have the name of a sample"):
        parse_sample((tmp_path / "a.tar").read_bytes()[:1024], 0, "a.tar")


@pytest.mark.parametrize(
    "names", [["k.meta.json", "k.cls", "k.jpg"], ["k.txt", "k.jpg"], ["k.cls", "k.json", "k.jpg"], ["j.cls", "k.jpg"]]
)
def test_members_in_another_order_are_no_sample(tmp_path: Path, names: list[str]) -> None:
    write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"1"))
    with pytest.raises(TarError, match="is not followed by the image of its sample"):
        list(iter_samples(tmp_path / "a.tar"))


def test_many_labels_are_in_the_tar_and_not_in_the_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number, labels in enumerate([(), (3,), (0, 7, 19)]):
            writer.add(f"k-{number}", "jpg", b"x" * 600, labels, 1, 1, 1)
    assert writer.index["label"].tolist() == [MULTI_LABEL] * 3
    samples = list(iter_samples(tmp_path / "a.tar"))
    assert [sample.label for sample in samples] == [sample.labels for sample in samples] == [(), (3,), (0, 7, 19)]
    assert [sample.offset for sample in samples] == writer.index["offset"].tolist()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames()[:2] == ["k-0.json", "k-0.jpg"]


def test_unlabelled_samples_and_metadata_come_back(tmp_path: Path) -> None:
    samples = [("a", None, b""), ("b", None, b"{}"), ("c", 7, b"{}"), ("d", None, b""), ("e", (1, 2), b"{}")]
    with ShardWriter(tmp_path / "a.tar") as writer:
        for key, label, metadata in samples:
            writer.add(key, "jpg", key.encode() * 600, label, 1, 1, 1, metadata)
    found = list(iter_samples(tmp_path / "a.tar"))
    assert [(sample.key, sample.label, sample.metadata) for sample in found] == samples
    assert [sample.image for sample in found] == [key.encode() * 600 for key, _, _ in samples]
    assert writer.index["label"].tolist() == [UNLABELLED, UNLABELLED, 7, UNLABELLED, MULTI_LABEL]


@pytest.mark.parametrize("content", [b"", b"-1", b"1.0", b"x", b" 1"])
def test_a_label_that_is_no_number_is_detected(tmp_path: Path, content: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"k.cls": content, "k.jpg": b"x"})
    with pytest.raises(TarError, match="sample k is truncated or garbled"):
        list(iter_samples(tmp_path / "a.tar"))


@pytest.mark.parametrize("more", [b"x", bytes(512) + b"x", bytes(2 * tarfile.RECORDSIZE)])
def test_what_follows_the_end_is_detected(tmp_path: Path, more: bytes) -> None:
    write(tmp_path / "a.tar")
    (tmp_path / "long.tar").write_bytes((tmp_path / "a.tar").read_bytes() + more)
    with pytest.raises(TarError, match="no end-of-archive mark"):
        list(iter_samples(tmp_path / "long.tar"))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"labels": 1}', b'{"labels": [1.5]}', b'{"labels": ["a"]}'])
def test_garbled_labels_are_detected(tmp_path: Path, content: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"k.json": content, "k.jpg": b"x"})
    with pytest.raises(TarError, match="sample k is truncated or garbled"):
        list(iter_samples(tmp_path / "a.tar"))


@pytest.mark.parametrize("key", ["", "A", "a.b", "a b", "a/b", "ä", "k" * 81])
def test_refuses_keys_outside_the_format(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer, pytest.raises(AssertionError):
        writer.add(key, "jpg", b"x", 0, 1, 1, 1)


def test_every_cut_is_detected(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    end = sum(512 + -(-max(1, size) // 512) * 512 for size in (1, 700, 1, 512, 2, 1))
    for cut in [*range(0, end + 1024, 128), end + 1023]:
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        with pytest.raises(TarError, match=r"cut\.tar"):
            list(iter_samples(tmp_path / "cut.tar"))


@pytest.mark.parametrize("position", [0, 100, 512 * 2 + 5, 512 * 5 + 150])
def test_garbled_headers_are_detected(tmp_path: Path, position: int) -> None:
    write(tmp_path / "a.tar")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[position : position + 20] = b"\xff" * 20
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(TarError, match=r"bad\.tar"):
        list(iter_samples(tmp_path / "bad.tar"))


def test_zeroed_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[512 * 5 : 512 * 7] = bytes(1024)
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(TarError, match="truncated or garbled"):
        list(iter_samples(tmp_path / "bad.tar"))


def test_refuses_a_tar_of_another_layout(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(__file__, arcname="readme.txt")
    with pytest.raises(TarError, match=r"member readme\.txt"):
        list(iter_samples(tmp_path / "other.tar"))
