"""The files for other readers: their exact bytes; tests/integration/test_stock_readers.py lets those readers judge."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.format.sidecars import data_set_sidecars, energon_index
from pipeline.format.tar import ShardWriter
from support.shards import jpegs, write_shards


@pytest.fixture
def writer(tmp_path: Path) -> ShardWriter:
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.add("one", "jpg", b"x" * 700, 3, 1, 1, 1)
        writer.add("two", "png", b"y" * 512, (1, 4), 1, 1, 1)
        writer.add("three", "webp", b"z", 0, 1, 1, 1, metadata=b"{}")
    return writer


def test_dali_index_is_text_with_all_members_of_a_sample(writer: ShardWriter) -> None:
    assert writer.dali_index.decode().splitlines() == [
        "v1.2 3",
        "cls 512 1 one.cls jpg 1536 700 one.jpg",
        "json 3072 18 two.json png 4096 512 two.png",
        "cls 5120 1 three.cls meta.json 6144 2 three.meta.json webp 7168 1 three.webp",
    ]


def test_energon_index_holds_where_samples_begin_and_the_last_ends(writer: ShardWriter) -> None:
    assert np.frombuffer(energon_index(writer.index), "<u8").tolist() == [0, 2560, 4608, 7680]


def test_descriptions_name_every_shard(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, jpegs(2), jpegs(1))
    sidecars = {name: json.loads(content) for name, content in data_set_sidecars(manifest).items()}
    sizes = [(tmp_path / f"tiny-00000{i}.tar").stat().st_size for i in range(2)]
    assert sidecars["wids.json"]["shardlist"] == [
        {"url": "tiny-000000.tar", "nsamples": 2, "filesize": sizes[0]},
        {"url": "tiny-000001.tar", "nsamples": 1, "filesize": sizes[1]},
    ]
    assert sidecars[".nv-meta/.info.json"] == {"shard_counts": {"tiny-000000.tar": 2, "tiny-000001.tar": 1}}
    names = ["tiny-000000.tar", "tiny-000001.tar"]
    assert sidecars[".nv-meta/split.yaml"]["split_parts"] == {"train": names, "val": [], "test": []}
    other = {name: json.loads(content) for name, content in data_set_sidecars(manifest.replace(split="mine")).items()}
    assert other[".nv-meta/split.yaml"]["split_parts"] == {"train": [], "val": [], "test": [], "mine": names}


def test_an_unlabelled_data_set_is_described_without_labels(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, jpegs(1)).replace(classes=())
    dataset = json.loads(data_set_sidecars(manifest)[".nv-meta/dataset.yaml"])
    assert dataset["sample_type"]["__class__"] == "ImageSample" and dataset["field_map"] == {"image": "jpg,png,webp"}
