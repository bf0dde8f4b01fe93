"""The manifest: canonical bytes, and a clear refusal of anything that is not right."""

import json

import pytest

from pipeline.format.checksum import digest_bytes
from pipeline.format.manifest import DamagedManifestError, Manifest, ManifestError, Spread
from pipeline.format.shard_table import ShardEntry, ShardTable

SPREAD = Spread(min=1, median=2, max=3)


def make_manifest(**changes: object) -> Manifest:
    shards = ShardTable.of(
        ShardEntry(name=f"train-{i:06d}", num_bytes=10_240, num_samples=3, digest="a" * 64, index_digest="b" * 64)
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


def parsed(manifest: Manifest, head: bytes | None = None, table: bytes | None = None) -> Manifest:
    """The manifest again, from its files or from others."""
    head, table = head or manifest.to_bytes(), table or manifest.shards.to_bytes()
    return Manifest.from_bytes(head, lambda: table, "s3://b/manifest.json")


def with_checksum(content: dict[str, object]) -> bytes:
    """A head whose checksum is right, whatever it says."""
    text = json.dumps(content, sort_keys=True, indent=1) + "\n"
    return json.dumps({**content, "checksum": digest_bytes(text.encode())}).encode()


def test_survives_a_round_trip() -> None:
    manifest = make_manifest()
    again = parsed(manifest)
    assert again == manifest and list(again.shards) == list(manifest.shards)
    assert again.digest == manifest.digest == json.loads(manifest.to_bytes())["checksum"]
    assert again.shards.num_samples.tolist() == [3, 3] and again.shards.num_bytes.tolist() == [10_240] * 2
    assert again.shards[-1].name == "train-000001" and again.shards[:1] == (manifest.shards[0],)


def test_the_identity_covers_the_table() -> None:
    other = ShardTable.of(entry.replace(digest="c" * 64) for entry in make_manifest().shards)
    assert make_manifest(shards=other).digest != make_manifest().digest


def test_bytes_are_canonical_json() -> None:
    content = json.loads(make_manifest().to_bytes())
    assert list(content) == sorted(content)
    assert make_manifest().to_bytes().endswith(b"}\n")


def test_shard_files_follow_from_the_name() -> None:
    entry = make_manifest().shards[0]
    assert (entry.tar_name, entry.index_name) == ("train-000000.tar", "train-000000.samples.npy")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema_version": 3}, "has schema version 3"),
        ({"num_samples": 7}, "num_samples is 7, but the shards add up to 6"),
        ({"num_bytes": 1}, "num_bytes is 1, but"),
        ({"colour": "red"}, "'colour'"),
        ({"num_rejects": -1}, "'num_rejects'"),
        ({"num_shards": "2"}, "'num_shards' is '2'"),
        ({"num_shards": 3}, "does not hold the 3 rows"),
        ({"num_shards": 10**30}, "does not hold the 1000000000000000000000000000000 rows"),
    ],
)
def test_names_source_and_fault(change: dict[str, object], fault: str) -> None:
    content = json.loads(make_manifest().to_bytes()) | change
    del content["checksum"]
    with pytest.raises(ManifestError, match=r"s3://b/manifest\.json") as caught:
        parsed(make_manifest(), with_checksum(content))
    assert fault in str(caught.value) and not isinstance(caught.value, DamagedManifestError)


def test_the_first_format_is_refused_with_the_way_out() -> None:
    with pytest.raises(ManifestError, match=r"has format 1.* run 'shard-builder upgrade'"):
        parsed(make_manifest(), b'{"schema_version": 1, "shards": []}')


@pytest.mark.parametrize("head", [b"<html>", b"\xff\xfe", b"[1]", b'"text"', b"[" * 99_999, b"{}", b'{"checksum": 1}'])
def test_what_is_no_manifest_may_have_been_damaged_on_the_way(head: bytes) -> None:
    with pytest.raises(DamagedManifestError, match=r"manifest s3://b/manifest\.json does not have its checksum"):
        parsed(make_manifest(), head)


def test_no_bit_can_be_flipped() -> None:
    """A flip is found, or changes nothing that is read."""
    manifest = make_manifest()
    for name, content in (("head", manifest.to_bytes()), ("table", manifest.shards.to_bytes())):
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            try:
                assert parsed(manifest, **{name: bytes(flipped)}) == manifest
            except DamagedManifestError:
                continue
            assert name == "head" and chr(content[bit // 8]) in " \n"


def test_refuses_two_shards_of_one_name() -> None:
    shard = make_manifest().shards[0]
    with pytest.raises(ValueError, match="the same name"):
        make_manifest(shards=ShardTable.of([shard, shard]))


def test_names_of_any_length_share_a_table() -> None:
    shard = make_manifest().shards[0]
    table = ShardTable.of(shard.replace(name=name) for name in ("a", "b" * 90, "c-1"))
    assert [entry.name for entry in ShardTable.from_bytes(table.to_bytes(), 3, table.digest)] == ["a", "b" * 90, "c-1"]
