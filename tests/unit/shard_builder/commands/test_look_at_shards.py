"""The commands that describe a finished data set: show, stats --html, plan."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.format.tar import iter_samples
from pipeline.order import OrderConfig
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run, build_args
from tools.shard_builder.build.plan import ShardPlan, make_plan
from tools.shard_builder.commands.plan import DryRunError, foresee
from tools.shard_builder.commands.plan import Run as TrainingRun
from tools.shard_builder.readers import open_reader


@pytest.fixture
def shards(run: Run, tiny_image_folder: Path, tmp_path: Path) -> Path:
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    return tmp_path / "out"


def all_samples(shards: Path) -> list[tuple[str, bytes]]:
    names = [entry.tar_name for entry in read_manifest(Store(shards)).shards]
    return [(sample.key, sample.image) for name in names for sample in iter_samples(shards / name)]


def test_show_lists_samples_by_their_number(run: Run, shards: Path) -> None:
    lines = run("show", shards, "--count", 100).splitlines()
    assert [line.split()[1:3] for line in lines] == [[str(i), key] for i, (key, _) in enumerate(all_samples(shards))]
    assert run("show", shards, "--index", 17, "--count", 1).splitlines() == lines[17:18]


def test_show_extracts_the_bytes(run: Run, shards: Path, tmp_path: Path) -> None:
    run("show", shards, "--index", 10, "--count", 5, "--extract", tmp_path / "files")
    found = {path.stem: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    assert found == dict(all_samples(shards)[10:15])


def test_show_draws_a_sheet(run: Run, shards: Path, tmp_path: Path) -> None:
    run("show", shards, "--count", 10, "--output", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = np.asarray(sheet)[8:208, 8:208]
    assert cell.std() > 5  # a picture, not a blank cell


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--index", 36], "has no sample 36: its samples are 0 to 35"),
        (["--output", "sheet.nothing"], "cannot write sheet.nothing: unknown file extension"),
        (["--output", "/proc/none/sheet.png"], "cannot write /proc/none/sheet.png"),
    ],
)
def test_show_explains_mistakes(run: Run, shards: Path, args: list[object], sentence: str) -> None:
    error = run("show", shards, *args, status=2)
    assert sentence in error and error.count("\n") == 1


def test_stats_as_a_page(run: Run, shards: Path, tmp_path: Path) -> None:
    run("stats", shards, "--html", tmp_path / "stats.html")
    page = (tmp_path / "stats.html").read_text()
    assert "bee: 12" in page and page.count("<svg") == 4
    assert "cannot write /proc/none" in run("stats", shards, "--html", "/proc/none", status=2)


def test_percentiles_are_those_of_the_images(run: Run, shards: Path) -> None:
    sizes = sorted(len(image) for _, image in all_samples(shards))
    found = json.loads(run("stats", shards, "--json"))["image_bytes"]
    assert found["percentiles"]["0"] == sizes[0] and found["percentiles"]["100"] == sizes[-1]
    assert found["percentiles"]["50"] == sizes[(len(sizes) - 1) // 2]
    assert sum(found["histogram"]["counts"]) == len(sizes)


def test_plan_says_what_a_build_then_writes(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    build = build_args(tiny_image_folder, tmp_path / "out")
    options = [*build[1 : build.index("--dest")], "--shard-size", "20kB"]
    args = ["plan", *options, "--global-batch", 8, "--world-size", 2]
    forecast = json.loads(run(*args, "--json"))
    assert not (tmp_path / "out").exists()
    run(*build)
    manifest = read_manifest(Store(tmp_path / "out"))
    assert forecast["plan_digest"] == manifest.plan_digest
    assert (forecast["images"], forecast["shards"]) == (36, len(manifest.shards))
    assert forecast["steps_per_epoch"] == 36 // 8
    assert "store mb per s" in run(*args)


@pytest.fixture
def planned(tiny_image_folder: Path) -> tuple[ShardPlan, ...]:
    reader = open_reader("image-folder", tiny_image_folder, "train")
    names: dict[str, Any] = {"dataset": "image-folder", "split": "train"}
    return make_plan(reader.records(), reader.classes, shard_bytes=12_000, shuffle_seed=0, **names).shards


def test_one_lane_of_single_shards_needs_little_cache(planned: tuple[ShardPlan, ...]) -> None:
    """In order, one shard after the other: at most the two on either side of a boundary are in use."""
    found = foresee(planned, TrainingRun(1, 1, 2, 100.0, OrderConfig(lanes=1, block_shards=1)))
    largest = sorted((shard.num_bytes for shard in planned), reverse=True)
    assert len(planned) > 4 and found["cache_max_bytes"] <= sum(largest[:3])
    assert found["shard_reads_per_epoch"] == len(planned)


def test_nodes_that_share_lanes_read_shards_twice(planned: tuple[ShardPlan, ...]) -> None:
    apart = foresee(planned, TrainingRun(2, 1, 4, 100.0, OrderConfig(lanes=2, block_shards=2)))
    shared = foresee(planned, TrainingRun(2, 1, 4, 100.0, OrderConfig(lanes=1, block_shards=2)))
    assert apart["shard_reads_per_epoch"] <= len(planned) + 1
    assert shared["shard_reads_per_epoch"] > 1.5 * len(planned)
    assert shared["store_mb_per_s"] > apart["store_mb_per_s"]


def test_ranks_that_do_not_fill_nodes_are_refused(planned: tuple[ShardPlan, ...]) -> None:
    with pytest.raises(DryRunError, match="12 ranks do not fill nodes of 8"):
        foresee(planned, TrainingRun(12, 8, 24, 100.0))
