"""Readers that know nothing of us read our shards: every sample, equal bytes, equal labels.

Those that import torch or print run in a process of their own; each writes a JSON line a sample.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.shard_builder.build.run import BuildOptions, build

Sample = tuple[str, int | None]
"""SHA-256 of the image, label."""

WEBDATASET = """
import webdataset
urls = [str(path) for path in sorted(Path(sys.argv[1]).glob("train-*.tar"))]
for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
    image = next(sample[ext] for ext in ("jpg", "png", "webp") if ext in sample)
    tell(image, int(sample["cls"]) if labelled else None)
"""
WIDS = """
import wids
folder = sys.argv[1]
data = wids.ShardListDataset(f"{folder}/wids.json", cache_dir=folder, keep=True, transformations=[])
for i in range(len(data)):
    sample = data[i]
    image = next(sample[ext] for ext in (".jpg", ".png", ".webp") if ext in sample)
    tell(image.read(), int(sample[".cls"].read()) if labelled else None)
"""
DALI = """
import numpy
from nvidia.dali import fn, pipeline_def
folder, index = Path(sys.argv[1]), "index" in sys.argv
paths = sorted(folder.glob("train-*.tar"))
options = {"index_paths": [str(path.with_suffix(".idx")) for path in paths]} if index else {}

@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def pipeline():
    ext = ["jpg;png;webp", *(["cls"] if labelled else [])]
    found = fn.readers.webdataset(paths=[str(path) for path in paths], ext=ext, name="reader", **options)
    return tuple(found) if labelled else found

reader = pipeline()
reader.build()
for _ in range(reader.epoch_size("reader")):
    image, *label = (numpy.asarray(output.at(0)).tobytes() for output in reader.run())
    tell(image, int(label[0]) if labelled else None)
"""
ENERGON = """
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset

class Undecoded(DefaultTaskEncoder):
    decoder = None

config = WorkerConfig(rank=0, world_size=1, num_workers=0)
data = get_val_dataset(
    sys.argv[1], split_part="train", worker_config=config, batch_size=1, task_encoder=Undecoded())
for batch in get_loader(data):
    tell(batch.image[0], int(batch.label[0]) if labelled else None)
"""
ENERGON_INDEXER = """
from megatron.energon.epathlib import EPath
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator
folder = EPath(sys.argv[1])
for path in sorted(Path(sys.argv[1]).glob("train-*.tar")):
    list(WebdatasetPreparator._preprocess_tar(path.name, {path.name: 0}, folder, 50))
"""


def run(script: str, *args: object) -> list[Sample]:
    tell = "def tell(image, label):\n    print(json.dumps([hashlib.sha256(image).hexdigest(), label]))\n"
    code = (
        f"import hashlib, json, sys\nfrom pathlib import Path\nlabelled = 'unlabelled' not in sys.argv\n{tell}{script}"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(params=[False, True], ids=["plain", "with-metadata"])
def shards(request: pytest.FixtureRequest, tiny_image_folder: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "shards"
    options = {"shard_bytes": 20_000, "keep_metadata": request.param}
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(dest), **options))
    return dest


@pytest.fixture
def expected(tiny_image_folder: Path) -> list[Sample]:
    classes = ["ant", "bee", "cat"]
    files = tiny_image_folder.rglob("*.*")
    return sorted((hashlib.sha256(file.read_bytes()).hexdigest(), classes.index(file.parent.name)) for file in files)


@pytest.mark.parametrize("script", [WEBDATASET, WIDS], ids=["webdataset", "wids"])
def test_webdataset_and_wids(script: str, shards: Path, expected: list[Sample]) -> None:
    assert sorted(run(script, shards)) == expected


@pytest.mark.parametrize("mode", ["index", "no index"])
def test_dali(mode: str, shards: Path, expected: list[Sample]) -> None:
    assert sorted(run(DALI, shards, mode)) == expected


def test_energon(shards: Path, expected: list[Sample]) -> None:
    assert sorted(run(ENERGON, shards)) == expected


@pytest.mark.parametrize("unlabelled", [False, True])
def test_energon_finds_nothing_to_complain_of(unlabelled: bool, tiny_image_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "shards"
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(dest), 20_000, unlabelled=unlabelled))
    lint: list[str | Path] = [Path(sys.executable).with_name("energon"), "lint", dest]  # with its default options
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Skipping empty split part val" in done.stdout


@pytest.mark.parametrize("script", [WEBDATASET, WIDS, DALI, ENERGON], ids=["webdataset", "wids", "dali", "energon"])
def test_unlabelled_shards_are_read_by_all(script: str, tiny_image_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "shards"
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(dest), 20_000, unlabelled=True))
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_image_folder.rglob("*.*")]
    assert sorted(run(script, dest, "index", "unlabelled")) == sorted((file, None) for file in files)


def test_indexes_are_the_ones_that_the_readers_own_tools_make(shards: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, bare)
        command = [Path(sys.executable).with_name("wds2idx"), tar, bare / f"{tar.stem}.idx"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run(ENERGON_INDEXER, bare)
    for theirs in bare.glob("*.idx"):
        assert (shards / theirs.name).read_bytes() == theirs.read_bytes(), theirs.name


def test_the_snippet_of_the_documentation(shards: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/shards.md").read_text()
    (snippet,) = re.findall(r"```python\n(import webdataset.*?)```", page, flags=re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", snippet]
    result = subprocess.run(command, cwd=shards.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "36 images of 3 classes\n"
