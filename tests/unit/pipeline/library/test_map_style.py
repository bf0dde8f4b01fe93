"""A data set as a list: every sample by its number, from a folder or an object store, in any process, without torch."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.format.tar import TarError
from pipeline.library.map_style import ImageError, Sample, Shards
from pipeline.shards.samples import DamagedShardError
from pipeline.store import Store, StoreError
from support.shards import HEIGHT, WIDTH, jpegs, write_shards

NUM = 37


@pytest.fixture(params=["local", "remote"])
def data(request: pytest.FixtureRequest, shards: Path, tmp_path: Path) -> Shards:
    if request.param == "local":
        return Shards(shards)
    remote = f"memory://{tmp_path.name}"
    images = jpegs(NUM)
    write_shards(remote, images[:9], images[9:10], images[10:22], images[22:30], images[30:])
    return Shards(remote)


def test_a_sample_is_what_was_built(data: Shards) -> None:
    images = jpegs(NUM)
    assert len(data) == NUM and data.classes[3] == "class-3"
    for i in (0, 8, 9, 10, 36):  # the ends of shards, and a shard by itself
        assert data[i] == Sample(i, f"k{i:06d}", i, (f"class-{i}",), {}, "jpg", images[i])
    assert data[5].image().size == (WIDTH, HEIGHT) and data[5].image().mode == "RGB"


def test_numbers_are_those_of_a_list(data: Shards) -> None:
    samples = list(data)
    assert [sample.id for sample in samples] == [*range(NUM)]
    assert data[-1] == samples[-1] and data[-NUM] == samples[0] and data[np.int64(3)] == samples[3]
    assert data[torch.tensor(3)] == samples[3]
    for part in (slice(3, 12), slice(None, None, -9), slice(-3, None), slice(5, 5)):
        assert data[part] == samples[part]
    for wrong in (NUM, -NUM - 1):
        with pytest.raises(IndexError, match=f"has no sample {wrong}: there are 37"):
            data[wrong]
    with pytest.raises(TypeError):
        data[1.0]  # type: ignore[call-overload]
    assert samples[4] in data and next(reversed(data)) == samples[-1]


def test_labels_and_metadata_of_every_kind(tmp_path: Path) -> None:
    labels = {1: (0, 2), 2: (), 3: None}
    write_shards(tmp_path, jpegs(4), labels=labels, metadata={1: b'{"title": "\xc3\xa9"}', 3: b"not JSON"})
    data = Shards(tmp_path)
    assert [data[i].label for i in range(3)] == [0, (0, 2), ()]
    assert [data[i].class_names for i in range(3)] == [("class-0",), ("class-0", "class-2"), ()]
    assert [data[i].metadata for i in range(3)] == [{}, {"title": "é"}, {}]
    with pytest.raises(TarError, match=r"the metadata of sample 3 \(k000003\) .* is not JSON"):
        data[3]


def test_only_the_index_and_the_sample_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, read = f"memory://{tmp_path.name}", []
    write_shards(remote, jpegs(6), jpegs(6, 6))
    parts = Store.parts

    def record(store: Store, name: str, start: int = 0, stop: int | None = None) -> object:
        read.append((name, start > 0 or stop is not None))
        return parts(store, name, start, stop)

    monkeypatch.setattr(Store, "parts", record)
    data = Shards(remote)
    data[8]
    names = ["manifest.json", "shards.npy", "tiny-000001.samples.npy", "tiny-000001.tar"]
    assert read == [(name, name.endswith(".tar")) for name in names]
    data[9]
    assert len(read) == 5


def test_several_samples_come_in_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, names = f"memory://{tmp_path.name}", []
    write_shards(remote, jpegs(6), jpegs(6, 6))
    data, read_range = Shards(remote), Store.read_range

    def record(store: Store, name: str, start: int, length: int) -> bytes:
        names.append(name)
        return read_range(store, name, start, length)

    monkeypatch.setattr(Store, "read_range", record)
    assert [sample.id for sample in data.__getitems__([7, 0, 8, 1])] == [7, 0, 8, 1]
    assert sorted(names) == ["tiny-000000.tar", "tiny-000001.tar"]
    assert len(list(data)) == 12 and len(names) == 4


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [jpegs(1)[0], b"broken"])
    with pytest.raises(ImageError, match=r"sample 1 \(k000001\) cannot be decoded"):
        Shards(tmp_path)[1].image()


@pytest.mark.parametrize("place", [0, 512, 1024, 1536])
def test_a_garbled_sample_is_named(tmp_path: Path, place: int) -> None:
    write_shards(tmp_path, jpegs(2))
    path = tmp_path / "tiny-000000.tar"
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8  # of the label's header, its content, the image's header, the image
    path.write_bytes(content)
    with pytest.raises(DamagedShardError, match=r"tiny-000000\.tar .* run 'shard-builder verify'"):
        Shards(tmp_path)[0]
    assert Shards(tmp_path)[1].encoded == jpegs(2)[1]


@pytest.mark.parametrize("num_bytes", [1000, -1])
def test_a_tar_of_another_build_is_noticed(tmp_path: Path, num_bytes: int) -> None:
    first, second = jpegs(2)
    assert len(first) % 512 != 1  # a byte less leaves everything else in its place
    write_shards(tmp_path, [first, second])
    other = first[:num_bytes] if num_bytes < 0 else first + bytes(num_bytes)
    write_shards(tmp_path / "other", [other, second])
    (tmp_path / "tiny-000000.tar").write_bytes((tmp_path / "other/tiny-000000.tar").read_bytes())
    with pytest.raises(DamagedShardError, match=r"tiny-000000\.tar .* run 'shard-builder verify'"):
        Shards(tmp_path)[0]


def test_a_folder_without_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        Shards(tmp_path)


def test_a_description_shows_no_bytes(shards: Path) -> None:
    assert repr(Shards(shards)) == f"Shards({str(shards)!r}): 37 samples of 37 classes"
    assert "class_names=('class-3',)" in repr(Shards(shards)[3]) and len(repr(Shards(shards)[3])) < 200


def test_a_pickled_one_reads_on(data: Shards) -> None:
    if data.manifest and "memory" not in repr(data):  # whose objects live in one process
        expected = data[7]
        again = pickle.loads(pickle.dumps(data))
        assert again[7] == expected and len(again) == NUM


LOADER = """
import sys
import torch
from pipeline import Shards

def keys(samples):
    return [sample.key for sample in samples]

if __name__ == "__main__":
    data = Shards(sys.argv[1])
    data[0]
    sampler = torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(0))
    for method, num_workers in (("fork", 2), ("spawn", 1)):
        loader = torch.utils.data.DataLoader(
            data, 5, sampler=sampler, num_workers=num_workers, collate_fn=keys, multiprocessing_context=method)
        assert sorted(key for batch in loader for key in batch) == [f"k{i:06d}" for i in range(37)], method
    print("ok")
"""


@pytest.mark.slow
@pytest.mark.slow
def test_it_is_a_data_set_for_workers_that_are_forked_or_spawned(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(LOADER)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "script.py"), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "ok\n", done.stderr


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
import pipeline
samples = list(pipeline.Shards(sys.argv[1]))
source = pipeline.WebdatasetSource(sys.argv[1], 8)
found = {"samples": len(samples), "size": samples[0].image().size, "step": sum(1 for _ in source)}
for name in ("view_loader", "views", "ViewLoader", "RECIPES"):
    try:
        getattr(pipeline, name)
    except ImportError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def test_the_base_install_has_it_and_says_what_the_rest_needs(shards: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout or done.stderr)
    assert (found["samples"], found["size"], found["step"]) == (NUM, [WIDTH, HEIGHT], 32)
    for name in ("view_loader", "views", "ViewLoader", "RECIPES"):
        what_to_do = "this needs the package torch; run: pip install 'esvit-streaming[train]'"
        assert found[name] == f"pipeline.{name}: {what_to_do}"
