"""A source that claims more than it holds is refused by name, or loses that image, in bounded memory."""

import gzip
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.pixels import MAX_IMAGE_BYTES
from pipeline.store import Store
from support.bombs import BOMBS, END, IMAGE, memory_limit, sparse
from support.shards import jpegs
from tools.shard_builder.build.finish import read_rejects
from tools.shard_builder.build.run import BuildOptions, build, plan_build
from tools.shard_builder.readers import ByteSource, UnusableError
from tools.shard_builder.readers.arrays import load_idx
from tools.shard_builder.readers.base import SourceError
from tools.shard_builder.readers.layout import listed_files
from tools.shard_builder.readers.sources import (
    Base64Source,
    FileSource,
    MetadataSource,
    RangeSource,
    TextSource,
    ZipSource,
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_tar_full_of_claims_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(BOMBS[kind])
    options = BuildOptions("webdataset", tmp_path, "train", str(tmp_path / "out"), max_rejects=1, num_workers=1)
    with memory_limit(), pytest.raises(UserError) as caught:
        build(options)
    assert len(str(caught.value)) < 1200
    if "every image was rejected" not in str(caught.value):
        assert "train-0.tar" in str(caught.value)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_sparse_label_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(sparse("a.cls", 20 * 10**9) + IMAGE + END)
    with pytest.raises(SourceError, match=r"^a\.cls is a sparse file in .*train-0\.tar, not a file"):
        plan_build(BuildOptions("webdataset", tmp_path, "train", ""))


def zip_with(path: Path, content: bytes, claim: int) -> None:
    """A zip for `esvit-zip` whose only image claims another size."""
    with zipfile.ZipFile(path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", content)
    data = bytearray((path / "train.zip").read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", claim)
    (path / "train.zip").write_bytes(data)
    (path / "train_map.txt").write_text("train.zip@/a.jpg\t0\n")


@pytest.mark.parametrize(
    ("num_bytes", "claim", "reason"),
    [
        (64 * 2**20, 1000, "its checksum does not match"),
        (100, 3 * 10**9, "it has 3,000,000,000 bytes, more than the largest image, 268,435,456"),
    ],
)
def test_the_size_that_a_zip_claims_is_a_limit(num_bytes: int, claim: int, reason: str, tmp_path: Path) -> None:
    zip_with(tmp_path, bytes(num_bytes), claim)
    options = BuildOptions("esvit-zip", tmp_path, "train", str(tmp_path / "out"), max_rejects=1, num_workers=1)
    with memory_limit(), pytest.raises(UserError, match="every image was rejected"):
        build(options)
    assert [reason in reject.reason for reject in read_rejects(Store(tmp_path / "out"))] == [True]


def test_a_huge_claim_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    path, most = str(tmp_path / "nothing"), MAX_IMAGE_BYTES + 1
    sources: list[ByteSource] = [
        RangeSource(path, 0, most),
        ZipSource(path, 0, 8, 1, most, 0),
        Base64Source(path, 0, most, 1),
        FileSource(str(tmp_path), "nothing", most),
    ]
    for source in sources:
        with pytest.raises(UnusableError, match="more than the largest image"):
            source.read()


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/passwd", "b/../../a.jpg", ".."])
def test_a_list_of_a_data_set_does_not_lead_out_of_it(path: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="which leads out of"):
        list(listed_files(tmp_path / "in", [(path, 0)]))
    assert FileSource.at(tmp_path / "in", "../a.jpg", may_lead_out=True).read() == b"x"


def test_a_file_that_grows_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(20 * 10**9)
    with memory_limit(), pytest.raises(OSError, match="its size changed during the build, from 5 to 20000000000 bytes"):
        FileSource(str(tmp_path), "a.jpg", 5).read()


@pytest.mark.parametrize("text", ["1e999", "[-1e999]", "9" * 5000, "[" * 100_000, '{"a": ' * 2000])
def test_numbers_and_depths_that_json_has_not_are_refused(text: str) -> None:
    with pytest.raises(OSError, match="its metadata are no valid JSON"):
        MetadataSource("a", TextSource(text)).read()


def test_metadata_keep_what_json_has() -> None:
    assert json.loads(MetadataSource("a", TextSource('{"x": 1e300}')).read())["metadata"] == {"x": 1e300}


def idx(path: Path, *shape: int, content: bytes) -> str:
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    path.write_bytes(gzip.compress(header + content, 1))
    return str(path)


def test_a_gzipped_array_gives_what_its_header_claims_and_no_more(tmp_path: Path) -> None:
    assert np.array_equal(load_idx(idx(tmp_path / "a.gz", 2, 2, content=b"abcd")), [[97, 98], [99, 100]])
    bomb = idx(tmp_path / "b.gz", 2, 2, content=bytes(2**26))
    with memory_limit(2**25), pytest.raises(SourceError, match="cannot reshape array of size 5"):
        load_idx(bomb)
    with pytest.raises(SourceError, match="its header claims 1,000,000,000,000 bytes, more than"):
        load_idx(idx(tmp_path / "c.gz", 10**6, 10**6, content=b""))


def test_images_are_not_held_up(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", jpegs(1)[0])
    (tmp_path / "train_map.txt").write_text("train.zip@/a.jpg\t0\n")
    options = BuildOptions("esvit-zip", tmp_path, "train", str(tmp_path / "out"), num_workers=1)
    assert build(options).num_samples == 1
