"""Formats that hold any data set: lists, webdataset tars, Parquet, and the archives of the original EsViT."""

import base64
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.miniature import Miniature, found, write_tar
from support.shards import jpegs
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.readers import DATASETS, SourceError


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("as_file", [True, False])
def test_list_of_paths(suffix: str, as_file: bool, tmp_path: Path) -> None:
    mini = Miniature(tmp_path / "lists")
    mini.image("../images/a.jpg", "train", "cat, domestic")
    mini.image("b.jpg", "train", "ant")
    rows = [(str(tmp_path / "images/a.jpg"), "cat, domestic"), ("b.jpg", "ant")]
    if suffix == "csv":
        mini.text("train.csv", "id,label,path", *(f'{i},"{label}",{path}' for i, (path, label) in enumerate(rows)))
    else:
        table = {"path": [path for path, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(table), mini.root / "train.parquet")
    source = mini.root / f"train.{suffix}" if as_file else mini.root
    assert found("image-list", source, "train") == mini.expected["train"]


def test_list_with_class_numbers_keeps_them(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    mini.image("a.jpg", "train", "10")
    mini.image("b.jpg", "train", "2")
    mini.text("train.csv", "path,label", "a.jpg,10", "b.jpg,2")
    reader = DATASETS["image-list"].open(tmp_path, "train")
    assert reader.classes == tuple(map(str, range(11))) and [r.label for r in reader.records()] == [10, 2]


def test_list_faults(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    with pytest.raises(SourceError, match=r"\.csv or \.parquet file, or to contain train\.csv or train\.parquet"):
        found("image-list", tmp_path, "train")
    mini.text("train.csv", "file,label", "a.jpg,10")
    with pytest.raises(SourceError, match=r"train\.csv has no column 'path'; expected path, label"):
        found("image-list", tmp_path, "train")
    mini.text("train.csv", "path,label", "a.jpg")
    with pytest.raises(SourceError, match=r"train\.csv is not a table with the columns path, label"):
        found("image-list", tmp_path, "train")
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet has no column 'label'; expected path, label; it has path"):
        found("image-list", tmp_path / "train.parquet", "train")


def test_webdataset_tars(tmp_path: Path) -> None:
    first, second, third = jpegs(3)
    files = {"./x/a.b.JPG": first, "./x/a.cls": b"3\n", "k2.txt": b"a caption", "k2.cls": b"0", "k2.jpg": second}
    write_tar(tmp_path / "train/00000.tar", {**files, "__meta__": b"{}"})
    write_tar(tmp_path / "train/00001.tar", {"k3.cls": b"1", "k3.webp": third})
    (tmp_path / "classes.txt").write_text("elsewhere\n")
    assert found("webdataset", tmp_path, "train") == sorted([(("0",), second), (("1",), third)])
    (tmp_path / "train/classes.txt").write_text("ant\nbee\n")
    assert found("webdataset", tmp_path, "train") == sorted([(("ant",), second), (("bee",), third)])
    (tmp_path / "train/classes.txt").write_text("ant\n")
    with pytest.raises(SourceError, match=r"00001\.tar/k3\.webp has label 1, but there are 1 classes"):
        found("webdataset", tmp_path, "train")


def test_webdataset_tars_without_labels_and_with_many(tmp_path: Path) -> None:
    first, second = jpegs(2)
    write_tar(tmp_path / "train-0.tar", {"a.jpg": first, "a.json": b'{"caption": "a cat"}'})
    assert found("webdataset", tmp_path, "train") == [((), first)]
    files = {"a.json": b'{"labels": [0, 2]}', "a.jpg": first, "b.json": b'{"labels": []}', "b.jpg": second}
    write_tar(tmp_path / "train-0.tar", files)
    assert found("webdataset", tmp_path, "train") == [((), second), (("0", "2"), first)]
    write_tar(tmp_path / "train-0.tar", {"a.cls": b"cat", "a.jpg": first})
    with pytest.raises(SourceError, match=r"the label of train-0\.tar/a\.jpg is garbled"):
        found("webdataset", tmp_path, "train")


def test_our_own_shards_can_be_sharded_again(tiny_image_folder: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(once), shard_bytes=20_000))
    build(BuildOptions("webdataset", once, "train", str(twice), shard_bytes=60_000))
    original = found("image-folder", tiny_image_folder, "train")
    assert found("webdataset", once, "train") == found("webdataset", twice, "train") == original
    assert len(list(twice.glob("*.tar"))) < len(list(once.glob("*.tar")))


def hugging_face_table(rows: list[tuple[bytes, int]], names: list[str] | None) -> pa.Table:
    images = [{"bytes": data, "path": f"{i}.jpg"} for i, (data, _) in enumerate(rows)]
    table = pa.table({"image": images, "label": pa.array([label for _, label in rows], pa.int64())})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return table.replace_schema_metadata(metadata if names else None)


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], None])
def test_hugging_face_parquet(names: list[str] | None, tmp_path: Path) -> None:
    rows = [(data, i % 3) for i, data in enumerate(jpegs(7))]
    (tmp_path / "data").mkdir()
    for part, slice_ in enumerate((slice(5), slice(5, None))):
        path = tmp_path / f"data/train-{part:05d}-of-00002.parquet"
        pq.write_table(hugging_face_table(rows[slice_], names), path, row_group_size=2)
    pq.write_table(hugging_face_table(rows, names), tmp_path / "data/test-00000-of-00001.parquet")
    expected = sorted((((names or ["0", "1", "2"])[label],), data) for data, label in rows)
    assert found("parquet", tmp_path, "train") == expected
    estimate = sum(record.num_bytes for record in DATASETS["parquet"].open(tmp_path, "train").records())
    assert 1 <= estimate / sum(len(data) for data, _ in rows) < 3  # so small a group is mostly statistics


def test_parquet_without_labels_and_with_bare_bytes(tmp_path: Path) -> None:
    images = jpegs(2)
    pq.write_table(pa.table({"jpg": images}), tmp_path / "train.parquet")
    assert found("parquet", tmp_path, "train") == sorted(((), data) for data in images)


def test_parquet_faults(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected .*/data/train-\*\.parquet or .*/train-\*\.parquet"):
        found("parquet", tmp_path, "train")
    path = tmp_path / "train-0.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"train-0\.parquet"):
        found("parquet", tmp_path, "train")
    pq.write_table(pa.table({"label": [1]}), path)
    with pytest.raises(SourceError, match=r"train-0\.parquet has no column 'image' or .*; it has label"):
        found("parquet", tmp_path, "train")
    pq.write_table(hugging_face_table([(b"x", -1)], ["ant"]), path)
    with pytest.raises(SourceError, match=r"row 0 of .* has label -1; expected 0 to 0"):
        found("parquet", tmp_path, "train")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_and_map(compression: int, tmp_path: Path) -> None:
    images = {"n01440764/a.JPEG": (0, jpegs(2)[0]), "n01443537/b.JPEG": (12, jpegs(2)[1])}
    with zipfile.ZipFile(tmp_path / "train.zip", "w", compression) as archive:
        for name, (_, data) in images.items():
            archive.writestr(name, data)
    (tmp_path / "train_map.txt").write_text("".join(f"{name}\t{label}\n" for name, (label, _) in images.items()))
    assert found("esvit-zip", tmp_path, "train") == sorted(((str(label),), data) for label, data in images.values())


def test_zip_faults(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected .*/train\.zip, which is not there"):
        found("esvit-zip", tmp_path, "train")
    (tmp_path / "train.zip").write_bytes(b"no zip")
    with pytest.raises(SourceError, match=r"expected .*/train_map\.txt, which is not there"):
        found("esvit-zip", tmp_path, "train")
    (tmp_path / "train_map.txt").write_text("a.jpg\t0\n")
    with pytest.raises(SourceError, match=r"train\.zip is not a zip"):
        found("esvit-zip", tmp_path, "train")
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.jpg", b"x" * 100)
    with pytest.raises(SourceError, match=r"train_map\.txt lists a\.jpg, which .*train\.zip does not contain"):
        found("esvit-zip", tmp_path, "train")
    (tmp_path / "train_map.txt").write_text("a.jpg zero\n")
    with pytest.raises(SourceError, match=r"train_map\.txt is not a text file of two columns"):
        found("esvit-zip", tmp_path, "train")


def write_tsv(path: Path, rows: list[tuple[str, str, bytes]], with_index: bool) -> None:
    lines = [f"{key}\t{label}\t{base64.b64encode(data).decode()}\n" for key, label, data in rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))
    if with_index:
        starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
        path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))


@pytest.mark.parametrize("with_index", [True, False])
def test_tsv_with_class_numbers(with_index: bool, tmp_path: Path) -> None:
    contents = [b"x" * size for size in (3000, 3001, 3002)]  # each has another padding
    rows = [(f"n01440764_{i}", str(i), data) for i, data in enumerate(contents)]
    write_tsv(tmp_path / "train.tsv", rows, with_index)
    assert found("esvit-tsv", tmp_path, "train") == [((str(i),), data) for i, data in enumerate(contents)]
    sizes = [record.num_bytes for record in DATASETS["esvit-tsv"].open(tmp_path, "train").records()]
    assert sizes == [3000, 3001, 3002]
    (tmp_path / "train.linelist").write_text("2\n")
    assert found("esvit-tsv", tmp_path, "train") == [(("2",), contents[2])]


def test_tsv_in_parts_with_class_names(tmp_path: Path) -> None:
    first, second = jpegs(2)
    (tmp_path / "labelmap_22k_reorder.txt").write_text("n01443537\t1\nn01440764\t0\n")
    write_tsv(tmp_path / "train/0.tsv", [("a", json.dumps([{"class": "n01443537"}]), first)], with_index=True)
    write_tsv(tmp_path / "train/1.tsv", [("b", json.dumps([{"class": "n01440764"}]), second)], with_index=False)
    assert found("esvit-tsv", tmp_path, "train") == sorted([(("n01443537",), first), (("n01440764",), second)])


def test_tsv_faults(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected .*/train\.tsv or .*/train/\*\.tsv"):
        found("esvit-tsv", tmp_path, "train")
    (tmp_path / "train.tsv").write_text("key and no tab\n")
    with pytest.raises(SourceError, match=r"train\.tsv is not a TSV file of keys, labels and images in base64"):
        found("esvit-tsv", tmp_path, "train")
    (tmp_path / "train.tsv").write_text("key\t0\tno*base64\n")
    with pytest.raises(OSError, match=r"no valid base64 in .*/train\.tsv at byte 6"):
        found("esvit-tsv", tmp_path, "train")
