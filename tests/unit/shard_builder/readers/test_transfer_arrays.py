"""Transfer sets of arrays: each in miniature, in the formats of its own download; every pixel survives."""

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.store import Store
from support.miniature import Miniature, found
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify
from tools.shard_builder.readers import DATASETS, SourceError


def cifar_10(mini: Miniature) -> None:
    folder = "cifar-10-batches-py"
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    _pickle(mini, f"{folder}/batches.meta", {"label_names": names, "num_cases_per_batch": 10000, "num_vis": 3072})
    for batch in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        data = _cifar_rows(mini, "test" if batch == "test_batch" else "train", ["frog", "airplane"])
        meta = {"batch_label": batch, "filenames": ["camion_s_000148.png", "sea_s_000002.png"]}
        _pickle(mini, f"{folder}/{batch}", {**meta, "labels": [6, 0], "data": data})


def cifar_100(mini: Miniature) -> None:
    names = [f"name{number:02d}" for number in range(100)]
    meta: dict[str, object] = {"fine_label_names": names, "coarse_label_names": ["fish"]}
    _pickle(mini, "cifar-100-python/meta", meta)
    for split in ("train", "test"):
        data = _cifar_rows(mini, split, ["name99", "name07"])
        _pickle(mini, f"cifar-100-python/{split}", {"fine_labels": [99, 7], "coarse_labels": [0, 0], "data": data})


def _cifar_rows(mini: Miniature, split: str, names: list[str]) -> np.ndarray:
    """Channel after channel, as in the real files."""
    images = [mini.pixels(32, 32) for _ in names]
    for name, image in zip(names, images, strict=True):
        mini.expect(split, (name,), image.tobytes())
    return np.stack(images).transpose(0, 3, 1, 2).reshape(len(names), -1)


def _pickle(mini: Miniature, path: str, content: dict[str, object]) -> None:
    """As Python 2 wrote it: strings of bytes, and arrays with theirs; no newer name of a module."""
    encoded = {key.encode("ascii"): _bytes(value) for key, value in content.items()}
    if isinstance(array := encoded.get(b"data"), np.ndarray):
        encoded[b"data"] = _Python2Array(array)
    data = pickle.dumps(encoded, protocol=3)
    mini.file(path, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def _bytes(value: object) -> object:
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    return value.encode("ascii") if isinstance(value, str) else value


class _Python2Array:
    """Pickles as an array does with protocol 2 or 3, whatever NumPy this is."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._array.__reduce__()


def mnist(mini: Miniature) -> None:
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images = [mini.pixels(28, 28, 1) for _ in range(3)]
        for image, name in zip(images, ("5", "0", "9"), strict=True):
            mini.expect(split, (name,), image.tobytes())
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4) for size in (3, 28, 28))
        mini.file(f"{prefix}-images-idx3-ubyte", header + np.stack(images).tobytes())
        labels = b"\x00\x00\x08\x01" + (3).to_bytes(4) + bytes([5, 0, 9])
        mini.file(f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(labels))


def stl_10(mini: Miniature) -> None:
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    mini.text("stl10_binary/class_names.txt", *names)
    for split in ("train", "test"):
        images = [mini.pixels(96, 96) for _ in range(2)]
        mini.expect(split, ("truck",), images[0].tobytes())
        mini.expect(split, ("airplane",), images[1].tobytes())
        mini.file(f"stl10_binary/{split}_X.bin", np.stack(images).transpose(0, 3, 2, 1).tobytes())
        mini.file(f"stl10_binary/{split}_y.bin", bytes([10, 1]))


def patch_camelyon(mini: Miniature) -> None:
    for name, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        images = np.stack([mini.pixels(96, 96) for _ in range(2)])
        for image, kind in zip(images, ("tumour", "no tumour"), strict=True):
            mini.expect(split, (kind,), image.tobytes())
        prefix = mini.root / f"camelyonpatch_level_2_split_{name}"
        with h5py.File(f"{prefix}_x.h5", "w") as file:
            file.create_dataset("x", data=images, chunks=(1, 96, 96, 3), compression="gzip")
        with h5py.File(f"{prefix}_y.h5", "w") as file:
            file.create_dataset("y", data=np.array([1, 0], dtype=np.uint8).reshape(2, 1, 1, 1))


def fer_2013(mini: Miniature) -> None:
    _fer(mini, "fer2013.csv", "emotion,pixels,Usage", "{emotion},{pixels},{usage}")


def _fer(mini: Miniature, path: str, header: str, row: str) -> None:
    rows = []
    for usage, split in (("Training", "train"), ("PublicTest", "val"), ("PrivateTest", "test"), ("Training", "train")):
        image = mini.pixels(48, 48, 1)
        mini.expect(split, ("neutral" if split == "val" else "angry",), image.tobytes())
        pixels = " ".join(map(str, image.ravel().tolist()))
        rows.append(row.format(emotion=6 if split == "val" else 0, pixels=pixels, usage=usage))
    mini.text(path, header, *rows)


ARRAY_SETS: dict[str, Callable[[Miniature], None]] = {
    "cifar-10": cifar_10,
    "cifar-100": cifar_100,
    "mnist": mnist,
    "stl-10": stl_10,
    "patch-camelyon": patch_camelyon,
    "fer-2013": fer_2013,
}


@pytest.mark.parametrize("dataset", ARRAY_SETS)
def test_finds_every_pixel_with_its_class(dataset: str, tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    ARRAY_SETS[dataset](mini)
    assert mini.expected.keys() == DATASETS[dataset].num_images.keys()
    for split, expected in mini.expected.items():
        assert found(dataset, tmp_path, split, as_pixels=True) == expected


@pytest.mark.parametrize("dataset", ARRAY_SETS)
def test_same_pixels_same_bytes_and_an_estimate_of_their_size(dataset: str, tmp_path: Path) -> None:
    ARRAY_SETS[dataset](Miniature(tmp_path))
    first, second = (next(DATASETS[dataset].open(tmp_path, "train", allow_subset=True).records()) for _ in range(2))
    data = pickle.loads(pickle.dumps(first.source)).read()  # as in a worker process
    assert data == second.source.read()
    assert first == second and 0 < first.num_bytes < 2 * len(data)


@pytest.mark.parametrize("dataset", ARRAY_SETS)
def test_a_garbled_file_is_named(dataset: str, tmp_path: Path) -> None:
    ARRAY_SETS[dataset](Miniature(tmp_path))
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xff\x00\xfe")
    with pytest.raises(SourceError, match=rf"{tmp_path}/"):
        found(dataset, tmp_path, "train")


@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_damaged_gzip_is_named(damage: str, tmp_path: Path) -> None:
    mnist(Miniature(tmp_path))
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    data = path.read_bytes()
    path.write_bytes(data[:-12] if damage == "cut" else data[:10] + b"\xff" * 20)
    with pytest.raises(SourceError, match=r"train-labels-idx1-ubyte\.gz is not an idx-ubyte file"):
        found("mnist", tmp_path, "train")


def test_other_form_of_fer_2013(tmp_path: Path) -> None:
    mini = Miniature(tmp_path)
    _fer(mini, "icml_face_data.csv", "emotion, Usage, pixels", "{emotion},{usage},{pixels}")
    for split, expected in mini.expected.items():
        assert found("fer-2013", tmp_path, split, as_pixels=True) == expected


def test_images_and_labels_must_be_equally_many(tmp_path: Path) -> None:
    stl_10(Miniature(tmp_path))
    (tmp_path / "stl10_binary/test_y.bin").write_bytes(b"\x01")
    with pytest.raises(SourceError, match=r"test_X\.bin has 2 images, but there are 1 labels"):
        found("stl-10", tmp_path, "test")


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> str | tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "hacked"),)

    mini = Miniature(tmp_path)
    cifar_10(mini)
    mini.file("cifar-10-batches-py/batches.meta", pickle.dumps({b"label_names": Evil()}))
    with pytest.raises(SourceError, match=r"batches\.meta is not .* refers to .*mkdir"):
        found("cifar-10", tmp_path, "train")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("pixels", ["1 2 3", "300 " * 48 * 48, "x " * 48 * 48])
def test_a_bad_row_of_fer_2013_is_rejected_not_fatal(pixels: str, tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{pixels},Training\n")
    (record,) = DATASETS["fer-2013"].open(tmp_path, "train", allow_subset=True).records()
    with pytest.raises(OSError, match="no 48 x 48 grey values"):
        record.source.read()


def test_worker_processes_read_arrays_and_give_the_same_bytes(tmp_path: Path) -> None:
    mini = Miniature(tmp_path / "cifar")
    cifar_10(mini)
    digests = set()
    for num_workers in (1, 2):
        dest = tmp_path / str(num_workers)
        options = BuildOptions(
            "cifar-10", mini.root, "train", str(dest), 10_000, num_workers=num_workers, allow_subset=True
        )
        report = build(options)
        assert report.num_shards > 1 and verify(Store(dest)).problems == ()
        assert found("webdataset", dest, "train", as_pixels=True) == mini.expected["train"]
        digests.add(report.manifest_digest)
    assert len(digests) == 1
