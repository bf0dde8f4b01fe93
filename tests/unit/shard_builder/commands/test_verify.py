"""Verification finds every contradiction and names the shard."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.format.checksum import digest_bytes
from pipeline.format.index import index_to_bytes, load_index
from pipeline.format.sidecars import shard_sidecars
from pipeline.format.tar import ShardWriter, TarSample, iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.shards import encode, forge, picture
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify


@pytest.fixture
def shards(tiny_image_folder: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "out"
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(dest), shard_bytes=20_000))
    return dest


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda d: (d / "train-000001.tar").unlink(), "train-000001: cannot read .* there is no such object"),
        (lambda d: flip(d / "train-000001.tar"), "train-000001.tar: its content does not have the digest"),
        (
            lambda d: (d / "train-000001.tar").write_bytes((d / "train-000000.tar").read_bytes()[:5120]),
            "train-000001.tar: 5120 bytes, the manifest records",
        ),
        (lambda d: (d / "train-000001.samples.npy").unlink(), "train-000001: cannot read index"),
        (
            lambda d: (d / "train-000001.samples.npy").write_bytes((d / "train-000000.samples.npy").read_bytes()),
            "train-000001: index .* does not have the digest",
        ),
    ],
)
def test_names_the_shard(shards: Path, harm: Callable[[Path], None], problem: str) -> None:
    harm(shards)
    (found,) = verify(Store(shards)).problems
    assert re.match(problem, found)


@pytest.mark.parametrize("column", ["offset", "size", "label", "checksum", "head_checksum"])
def test_compares_the_index_with_the_tar(shards: Path, column: str) -> None:
    """An index that is wrong and signed: the digests agree, the content does not."""
    store = Store(shards)
    entry = read_manifest(store).shards[0]
    index = np.array(load_index(shards / entry.index_name, entry))
    index[column][1] += 1
    store.put(entry.index_name, index_to_bytes(index))
    forge(store, 0, index_digest=digest_bytes(index_to_bytes(index)))
    (problem,) = verify(store).problems
    assert problem.startswith("train-000000.tar: sample ")
    assert problem.endswith((f"1 does not have the {column} of its index", "is not where or what the index says"))


def rebuilt(shards: Path, change: Callable[[TarSample], TarSample]) -> Store:
    """The first shard written again, well signed, with one of its samples changed."""
    store = Store(shards)
    entry = read_manifest(store).shards[0]
    index = load_index(shards / entry.index_name, entry)
    samples = list(iter_samples(shards / entry.tar_name))
    samples[2] = change(samples[2])
    with ShardWriter(shards / "new.tar") as writer:
        for row, sample in zip(index, samples, strict=True):
            size = int(row["height"]), int(row["width"]), int(row["orientation"])
            writer.add(sample.key, sample.ext, sample.image, sample.label, *size, sample.metadata)
    (shards / "new.tar").rename(shards / entry.tar_name)
    new_index = index_to_bytes(writer.index)
    store.put(entry.index_name, new_index)
    forge(store, 0, digest=writer.digest, index_digest=digest_bytes(new_index), num_bytes=writer.num_bytes)
    for name, content in shard_sidecars(entry, shards / entry.tar_name, writer.index).items():
        store.put(name, content)
    return store


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda sample: sample._replace(ext="png"), r"its suffix is \.png, but its content is \.jpg$"),
        (
            lambda sample: sample._replace(image=encode(picture(1))),
            "has not the size or orientation that the index says$",
        ),
        (lambda sample: sample._replace(image=sample.image[:300]), "damaged image: "),
    ],
)
def test_looks_into_the_images_if_asked(shards: Path, change: Callable[[TarSample], TarSample], sentence: str) -> None:
    store = rebuilt(shards, change)
    assert verify(store).problems == ()
    (problem,) = verify(store, decode=True).problems
    assert problem.startswith("train-000000.tar: sample ") and re.search(sentence, problem)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_named(shards: Path, label: int) -> None:
    store = rebuilt(shards, lambda sample: sample._replace(label=(0, label)))
    (problem,) = verify(store).problems
    assert problem.endswith(f"has label (0, {label}), which is no class")


def test_sidecars_are_compared(shards: Path) -> None:
    (shards / "train-000001.idx").write_text("v1.2 0\n")
    assert verify(Store(shards)).problems == ("train-000001.idx: is not the index of train-000001.tar",)


@pytest.mark.parametrize("name", ["wids.json", ".nv-meta/split.yaml"])
def test_descriptions_for_other_readers_are_compared(shards: Path, name: str) -> None:
    (shards / name).write_text("{}")
    assert verify(Store(shards)).problems == (f"{name}: does not describe the data set",)
    (shards / name).unlink()
    (problem,) = verify(Store(shards)).problems
    assert problem.startswith(f"{name}: cannot read ")


def test_lists_every_problem(shards: Path) -> None:
    flip(shards / "train-000000.tar")
    (shards / "train-000002.tar").unlink()
    assert [problem[:12] for problem in verify(Store(shards)).problems] == ["train-000000", "train-000002"]


def test_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="build has not finished"):
        verify(Store(tmp_path))
