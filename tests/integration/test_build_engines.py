"""One data set, whoever builds it and wherever: real images, process and Ray engine, local disk and S3."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store
from tools.shard_builder import cli
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def bucket(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new place in a bucket; this process and its children may use it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_url()


def test_bench_compares_with_a_plain_upload(
    bucket: str, tiny_image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--source", tiny_image_folder, "--dest", f"{bucket}/bench", "--gigabytes", "0.0001", "--num-workers", "1"]
    monkeypatch.setattr(sys, "argv", ["shard-builder", "bench", *map(str, args), "--rounds", "1", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["mb_per_s"].keys() == {"plain multipart upload", "shard-builder"}
    assert Store(f"{bucket}/bench").list() == []


def _link(source: Path, every: int, dest: Path) -> None:
    """Add every so-many-th image of a data set to `dest`."""
    for path in sorted(source.rglob("train/*/*"))[::every]:
        link = dest / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)


@pytest.mark.parametrize(
    ("parts", "num_images", "shard_bytes"),
    [
        ({"imagenet_sample": 10, "cifar10_subset": 20}, 560, 2_000_000),
        pytest.param({"imagenet_sample": 1}, 600, 16_000_000, marks=pytest.mark.acceptance),
        pytest.param({"cifar10_subset": 1}, 10_000, 4_000_000, marks=pytest.mark.acceptance),
    ],
)
def test_every_way_gives_the_same_digest(
    parts: dict[str, int],
    num_images: int,
    shard_bytes: int,
    bucket: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    source = tmp_path / "images"
    for images, every in parts.items():
        _link(request.getfixturevalue(images), every, source)

    def digest(dest: Path | str, **who: Any) -> str | None:
        report = build(BuildOptions("image-folder", source, "train", str(dest), shard_bytes=shard_bytes, **who))
        assert (report.num_samples, report.num_rejects) == (num_images, 0)
        assert sum(name.endswith(".tar") for name in Store(str(dest)).list()) >= 3
        return report.manifest_digest

    digests = {
        digest(tmp_path / "one"),
        digest(tmp_path / "two", num_workers=2),
        digest(f"{bucket}/one"),
        digest(f"{bucket}/two", num_workers=2),
        digest(f"{bucket}/ray", num_workers=2, engine="ray"),
    }
    assert len(digests) == 1
    assert verify(Store(f"{bucket}/ray")).problems == ()
