"""The manifest: canonical bytes, and a clear refusal of anything that is not right."""

import json

import pytest

from pipeline.format.checksum import sha256_bytes
from pipeline.format.manifest import Manifest, ManifestError, ShardEntry, Spread

SPREAD = Spread(min=1, median=2, max=3)


def make_manifest(**changes: object) -> Manifest:
    shards = tuple(
        ShardEntry(name=f"train-{i:06d}", num_bytes=10_240, num_samples=3, sha256="a" * 64, index_sha256="b" * 64)
        for i in range(2)
    )
    fields = {
        "dataset": "image-folder",
        "split": "train",
        "classes": ("ant", "bee"),
        "shards": shards,
        "num_samples": 6,
        "num_bytes": 20_480,
        "num_rejects": 0,
        "image_height": SPREAD,
        "image_width": SPREAD,
        "image_bytes": SPREAD,
        "plan_digest": "c" * 64,
    }
    return Manifest.model_validate(fields | changes)


def test_survives_a_round_trip() -> None:
    manifest = make_manifest()
    again = Manifest.from_bytes(manifest.to_bytes(), "here")
    assert again == manifest
    assert again.digest == manifest.digest == sha256_bytes(manifest.to_bytes())


def test_bytes_are_canonical_json() -> None:
    content = json.loads(make_manifest().to_bytes())
    assert list(content) == sorted(content)
    assert make_manifest().to_bytes().endswith(b"}\n")


def test_shard_files_follow_from_the_name() -> None:
    entry = make_manifest().shards[0]
    assert (entry.tar_name, entry.index_name) == ("train-000000.tar", "train-000000.index.npy")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema_version": 2}, "has schema version 2"),
        ({"num_samples": 7}, "num_samples is 7, but the shards add up to 6"),
        ({"num_bytes": 1}, "num_bytes is 1, but"),
        ({"colour": "red"}, "'colour'"),
        ({"num_rejects": -1}, "'num_rejects'"),
    ],
)
def test_names_source_and_fault(change: dict[str, object], fault: str) -> None:
    content = json.loads(make_manifest().to_bytes()) | change
    with pytest.raises(ManifestError, match=r"manifest s3://b/m\.json") as caught:
        Manifest.from_bytes(json.dumps(content).encode(), "s3://b/m.json")
    assert fault in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff\xfe", b"[1]", b'"text"'])
def test_refuses_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"manifest here"):
        Manifest.from_bytes(data, "here")


def test_refuses_two_shards_of_one_name() -> None:
    shard = make_manifest().shards[0]
    with pytest.raises(ValueError, match="the same name"):
        make_manifest(shards=(shard, shard))
