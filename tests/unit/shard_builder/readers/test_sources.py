"""Byte sources: what they read, and that damage is an `OSError`, which makes a reject of one image."""

import dataclasses
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.miniature import write_tar
from support.shards import encode, picture
from tools.shard_builder.readers import SourceError
from tools.shard_builder.readers.archives import nested_tar_members, tar_members
from tools.shard_builder.readers.pixels import ConvertedSource, encode_png
from tools.shard_builder.readers.sources import FileSource, RangeSource, ZipSource


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    source = FileSource.at(tmp_path, "a.jpg")
    assert (source.num_bytes, source.read()) == (5, b"12345")
    (tmp_path / "a.jpg").write_bytes(b"123456")
    with pytest.raises(OSError, match="its size changed during the build, from 5 to 6 bytes"):
        source.read()
    with pytest.raises(SourceError, match=r"expected an image at .*/b\.jpg: No such file"):
        FileSource.at(tmp_path, "b.jpg")


def test_a_range_that_ends_too_early_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    assert RangeSource(str(tmp_path / "a.tar"), 7, 3).read() == b"789"
    with pytest.raises(OSError, match=r"a\.tar ends before byte 11"):
        RangeSource(str(tmp_path / "a.tar"), 7, 4).read()


@given(st.lists(st.binary(max_size=1500), min_size=1, max_size=4))
def test_members_of_tars_are_where_they_are_said_to_be(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    files = {f"{'very-long/' * 12}{i}.jpg": content for i, content in enumerate(contents)}
    inner = write_tar(folder / "inner.tar", files)
    write_tar(folder / "outer.tar", {"a.tar": inner, "b.tar": inner})
    data = (folder / "outer.tar").read_bytes()
    assert {m.name: inner[m.offset :][: m.num_bytes] for m in tar_members(folder / "inner.tar")} == files
    for _, members in nested_tar_members(folder / "outer.tar"):
        assert {m.name: data[m.offset :][: m.num_bytes] for m in members} == files


def test_an_inner_tar_that_is_cut_is_named(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "inner.tar", {"1.jpg": bytes(600), "2.jpg": bytes(600)})
    for size in (0, 700, 1024, 512 * 3, 512 * 4 + 5, 512 * 6):  # the last: both members whole, no end mark
        write_tar(tmp_path / "outer.tar", {"a.tar": inner[:size], "b.tar": inner})
        with pytest.raises(SourceError, match=r"outer\.tar/a\.tar as an uncompressed, whole tar"):
            for _, members in nested_tar_members(tmp_path / "outer.tar"):
                list(members)


def test_a_damaged_zip_member_is_not_read(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(range(256)) * 4)
    (info,) = zipfile.ZipFile(tmp_path / "a.zip").infolist()
    source = ZipSource(str(tmp_path / "a.zip"), 0, 8, info.compress_size, info.file_size, info.CRC)
    assert source.read() == bytes(range(256)) * 4
    with pytest.raises(OSError, match="its checksum does not match"):
        dataclasses.replace(source, crc32=0).read()
    with pytest.raises(OSError, match=r"damaged in .*a\.zip"):
        dataclasses.replace(source, header_offset=0, num_compressed_bytes=5).read()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_png_is_lossless_and_bare(mode: str) -> None:
    image = picture(1).convert(mode)
    image.info = {"dpi": (72, 72), "icc_profile": b"x" * 99}
    data = encode_png(image)
    again = Image.open(BytesIO(data))
    assert again.mode == mode and np.array_equal(np.asarray(again), np.asarray(image))
    assert "icc_profile" not in again.info and data == encode_png(picture(1).convert(mode))


def test_converted_images_keep_their_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(encode(picture(2), "PPM"))
    source = ConvertedSource(FileSource.at(tmp_path, "a.ppm"))
    assert Image.open(BytesIO(source.read())).tobytes() == picture(2).tobytes()
    assert pickle.loads(pickle.dumps(source)) == source
    for damaged in (b"P6 no image".ljust(source.num_bytes), b"no image".ljust(source.num_bytes)):
        (tmp_path / "a.ppm").write_bytes(damaged)
        with pytest.raises(OSError, match=r"damaged image|cannot identify"):
            source.read()
