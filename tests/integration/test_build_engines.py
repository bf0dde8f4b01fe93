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


@pytest.mark.parametrize(
    ("images", "split", "num_images"), [("imagenet_sample", "train", 600), ("cifar10_subset", "train", 10_000)]
)
def test_every_way_gives_the_same_digest(
    images: str, split: str, num_images: int, bucket: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(images)

    def digest(dest: Path | str, **who: Any) -> str | None:
        report = build(BuildOptions("image-folder", source, split, str(dest), shard_bytes=16_000_000, **who))
        assert (report.num_samples, report.num_rejects) == (num_images, 0)
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
