"""Whatever a person or a program wrote into a source ends in a sentence: no traceback, no hang, nothing invented."""

import csv
import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.format.tar import iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run
from support.miniature import Miniature, found, write_tar
from support.shards import encode, jpegs, picture
from tools.shard_builder.build.finish import read_rejects
from tools.shard_builder.build.plan import PlanError
from tools.shard_builder.build.run import BuildOptions, build, plan_build
from tools.shard_builder.commands.verify import verify
from tools.shard_builder.readers import DATASETS, SourceError
from tools.shard_builder.readers.annotations import read_csv, read_json_lines
from tools.shard_builder.readers.archives import tar_members
from tools.shard_builder.readers.sources import FileSource, MetadataSource, TextSource

ONE, TWO = jpegs(2)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def listed(path: Path, text: bytes) -> Any:
    path.mkdir(exist_ok=True)
    (path / "a.jpg").write_bytes(ONE)
    (path / "train.csv").write_bytes(text)
    return list(DATASETS["image-list"].open(path, "train").records())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'path,label\na.jpg,"ant\na.jpg,bee\n', "unexpected end of data"),
        (b'path,label\na.jpg,"ant"s\n', "',' expected after '\"'"),
        (b'path,label\na.jpg,"' + b"x" * 200_000 + b'"\n', "field larger than field limit"),
        (b"path,label\na.jpg,ant, domestic\n", "line 2 has 3 cells, its header has 2"),
        (b"path,label\na.jpg\n", "line 2 has 1 cells, its header has 2"),
        (b"path,label\na\0.jpg,ant\n", "a path cannot hold a NUL byte"),
        (b"path,label\na.jpg,a\0b\n", "is no clean text"),
        (b"path,label\n\xff.jpg,ant\n", "codec can't decode"),
        ("path,label\na.jpg,ant\n".encode("utf-16"), "codec can't decode"),
        (b"path,label\n,ant\n", r"row 1 of .*train\.csv has no path"),
        (b"path,label\n.,ant\n", "it is not a file"),
        (b"path,label\n/dev/zero,ant\n", "expected an image at /dev/zero: it is not a file"),
        (b"path;label\na.jpg;ant\n", "it has path;label"),
        (b"", "has no column 'path'; expected path, label; it has "),
        (b"path,label\n" + b"a/" * 3000 + b".jpg,ant\n", "File name too long"),
    ],
)
def test_odd_lists_are_explained(text: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=sentence) as caught:
        listed(tmp_path, text)
    assert len(str(caught.value)) < 1100


def test_two_images_of_one_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(ONE)
    (tmp_path / "train.csv").write_text("path,label\na.jpg,ant\na.jpg,bee\n")
    with pytest.raises(PlanError, match=r"a\.jpg is twice in the source, so two images have the same key"):
        plan_build(BuildOptions("image-list", tmp_path, "train", ""))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("dataset", "pipes"),
    [
        ("image-list", ["train.csv"]),
        ("image-list", ["train.parquet"]),
        ("webdataset", ["train-0.tar"]),
        ("webdataset", ["train/0.tar"]),
        ("parquet", ["train-0.parquet"]),
        ("esvit-zip", ["train.zip", "train_map.txt"]),
        ("esvit-tsv", ["train.tsv"]),
        ("esvit-tsv", ["train/0.tsv", "labelmap_22k_reorder.txt"]),
        ("imagenet-1k", ["ILSVRC2012_img_train.tar"]),
        ("imagenet-22k", ["n01440764.tar"]),
        ("imagenet-22k", ["fall11_whole.tar"]),
        ("webvision-v1", ["info/synsets.txt", "info/train_filelist_google.txt"]),
        ("fer-2013", ["fer2013.csv"]),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(dataset: str, pipes: list[str], tmp_path: Path) -> None:
    for name in pipes:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError):
        list(DATASETS[dataset].open(tmp_path, "train", allow_subset=True).seen())


@pytest.mark.parametrize("url", ["s3://bucket/images", "hf://datasets/x", "gs://b", "https://example.org/x"])
def test_a_source_that_is_a_url_is_refused_as_it_was_written(url: str, run: Run, tmp_path: Path) -> None:
    args = ["build", "--dataset", "image-folder", "--source", url, "--split", "train", "--dest", tmp_path / "out"]
    assert f"cannot read source {url}: a source must be a local folder" in run(*args, status=2)


def test_names_that_are_no_utf_8_reach_the_journal_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "in/train/ant"
    folder.mkdir(parents=True)
    bad, good, twin = (
        os.fsencode(folder) + b"/" + name for name in (b"caf\xe9.jpg", b"na\xefve.jpg", b"na\xefve2.jpg")
    )
    for name, data in {bad: b"no image", good: ONE, twin: ONE}.items():
        with open(name, "wb") as file:
            file.write(data)
    options: dict[str, Any] = {"max_rejects": 1, "keep_metadata": True, "deduplicate": True}
    report = build(BuildOptions("image-folder", tmp_path / "in", "train", str(tmp_path / "out"), **options))
    assert (report.num_samples, report.num_rejects) == (1, 2)
    assert {reject.path for reject in read_rejects(Store(tmp_path / "out"))} == {
        r"ant/caf\udce9.jpg", r"ant/na\udcefve2.jpg",
    }  # fmt: skip
    (sample,) = iter_samples(tmp_path / "out/train-000000.tar")
    assert json.loads(sample.metadata.decode())["path"] == r"ant/na\udcefve.jpg"
    assert verify(Store(tmp_path / "out")).problems == ()


def test_metadata_are_json_that_all_can_read() -> None:
    source = MetadataSource("a", TextSource('{"score": NaN, "range": [Infinity, -Infinity], "x": 1.5}'))
    kept = json.loads(source.read(), parse_constant=pytest.fail)
    assert kept["metadata"] == {"score": None, "range": [None, None], "x": 1.5}
    with pytest.raises(OSError, match="its metadata are no valid JSON"):
        MetadataSource("a", TextSource("[" * 100_000)).read()


def test_a_damaged_page_of_a_table_loses_its_images_not_the_build(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [ONE, TWO]}), path, compression="zstd", row_group_size=1, use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 9] = b"\xff" * 9
    path.write_bytes(data)
    report = build(BuildOptions("parquet", tmp_path, "train", str(tmp_path / "out"), max_rejects=1))
    assert (report.num_samples, report.num_rejects) == (1, 1)


@pytest.mark.parametrize("values", [[1, 2], ["a", "b"], [None, None], [{"path": "a"}, {"path": "b"}], [[1], [2]]])
def test_a_column_that_holds_no_images_makes_rejects(values: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": values}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="every image was rejected"):
        build(BuildOptions("parquet", tmp_path, "train", str(tmp_path / "out"), max_rejects=2))
    assert all("has no image bytes" in reject.reason for reject in read_rejects(Store(tmp_path / "out")))


def test_an_image_that_is_converted_and_damaged_is_a_reject(tmp_path: Path) -> None:
    mini = Miniature(tmp_path / "in")
    mini.file("GTSRB/Training/00000/1.ppm", encode(picture(1), "PPM"))
    mini.file("GTSRB/Training/00000/2.ppm", b"P6 99999999 99999999 255\n")
    mini.file("GTSRB/Training/00000/3.ppm", b"P6 9 9 x\n")
    options: dict[str, Any] = {"max_rejects": 2, "allow_subset": True}
    assert build(BuildOptions("gtsrb", mini.root, "train", str(tmp_path / "out"), **options)).num_rejects == 2


def tar_of(*members: tuple[str, bytes]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return buffer.getvalue()


@pytest.mark.timeout(20)
def test_a_tar_that_leads_in_a_circle_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar_of(("a.jpg", ONE), ("b.jpg", TWO)))
    info = tarfile.TarInfo("b.jpg")
    info.size = -512  # the next header is this one
    place = data.index(b"b.jpg")
    data[place : place + 512] = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "train-0.tar").write_bytes(data)
    with pytest.raises(SourceError, match="a header is garbled"):
        found("webdataset", tmp_path, "train")


def quietly(action: Callable[[], Any]) -> None:
    """Either it works, or there is one sentence of a bearable length."""
    try:
        action()
    except UserError as error:
        assert str(error) and len(str(error)) < 1500


@many
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(b'path,label\n"a.jpg')
@example(b"path,label\r\na.jpg,\x00\r\n")
def test_any_csv(tmp_path: Path, text: bytes) -> None:
    quietly(lambda: listed(tmp_path, b"path,label\n" + text))
    quietly(lambda: listed(tmp_path, text))
    quietly(lambda: list(read_csv(tmp_path / "train.csv", "path", "label", delimiter=";")))


cells = st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9) | st.booleans()


@many
@given(
    st.lists(cells | st.lists(cells, max_size=3), min_size=1, max_size=3), st.sampled_from(["label", "path", "image"])
)
def test_any_column(tmp_path: Path, values: list[Any], column: str) -> None:
    try:
        table = pa.table({"image": [ONE] * len(values), "path": ["a.jpg"] * len(values), "label": [0] * len(values)})
        table = table.set_column(table.schema.get_field_index(column), column, [pa.array(values)])
    except (pa.ArrowException, OverflowError, UnicodeError):
        return  # pyarrow has no type for these values together
    (tmp_path / "a.jpg").write_bytes(ONE)
    pq.write_table(table, tmp_path / "train.parquet")
    for dataset in ("parquet", "image-list"):
        quietly(partial(plan_build, BuildOptions(dataset, tmp_path, "train", "")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "labels", "x"]), inner),
    max_leaves=6,
)


@many
@given(json_values.map(json.dumps).map(str.encode) | st.binary(max_size=40))
def test_any_json(tmp_path: Path, text: bytes) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.json": text, "a.jpg": ONE, "b.json": b'{"label": 1}', "b.jpg": TWO})
    quietly(lambda: plan_build(BuildOptions("webdataset", tmp_path, "train", "")))
    (tmp_path / "lines.jsonl").write_bytes(text)
    quietly(lambda: read_json_lines(tmp_path / "lines.jsonl"))


@many
@given(st.data())
def test_any_damage_to_a_tar(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tar_of(("ä.jpg", ONE[:700]), ("b" * 120 + ".jpg", b"x"), ("c.jpg", b"y" * 600)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place : place + 1] = data.draw(st.binary(max_size=3))
    (tmp_path / "a.tar").write_bytes(content)
    quietly(lambda: list(tar_members(tmp_path / "a.tar")))


def test_a_file_source_names_what_cannot_be_a_file(tmp_path: Path) -> None:
    for path, sentence in {
        "a\0b": "a path cannot hold a NUL byte",
        ".": "it is not a file",
        "\ud800": "surrogates not allowed",
    }.items():
        with pytest.raises(SourceError, match=sentence):
            FileSource.at(tmp_path, path)


def test_a_manifest_of_somebody_else_beside_tars_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"0", "a.jpg": ONE})
    for text in ("{}", "[]", '{"classes": "ant"}', '{"classes": [1]}', "{", "[" * 99_999, '"\\ud800"'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(SourceError, match=r"manifest\.json is not a manifest"):
            found("webdataset", tmp_path, "train")


def test_csv_limits_are_those_of_the_library() -> None:
    assert csv.field_size_limit() == 131_072  # nobody raised it: a quote that is never closed must not eat a file


def test_a_damaged_list_in_a_data_set_is_one_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in (b"[" * 99_999, b'{"schema_version": ' + b"9" * 5000 + b"}", b'{"schema_version": 1}', b"\xff"):
        store.put("manifest.json", text)
        with pytest.raises(UserError, match=r"^manifest .*manifest\.json"):
            read_manifest(store)
