"""The plan: a pure function, nothing lost, shards of even size."""

import random
from collections.abc import Sequence
from typing import Any

import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.plan import Plan, PlanError, make_plan
from tools.shard_builder.readers.base import Lost, Other, Record, Seen
from tools.shard_builder.readers.sources import RangeSource

sizes = st.lists(st.integers(0, 50_000), min_size=1, max_size=60)
seeds = st.none() | st.integers(0, 3)


def make_records(num_bytes: list[int]) -> list[Record]:
    paths = [f"c{i % 3}/{i:03d}.jpg" for i in range(len(num_bytes))]
    return [
        Record.of(path, int(path[1]), RangeSource("images.tar", 0, size))
        for path, size in zip(paths, num_bytes, strict=True)
    ]


def plan(
    records: Sequence[Seen], shard_bytes: int = 100_000, seed: int | None = 0, split: str = "train", **options: Any
) -> Plan:
    return make_plan(
        records,
        ("c0", "c1", "c2"),
        dataset="image-folder",
        split=split,
        shard_bytes=shard_bytes,
        shuffle_seed=seed,
        **options,
    )


@given(sizes, seeds, st.randoms(use_true_random=False))
def test_does_not_depend_on_the_order_of_the_records(
    num_bytes: list[int], seed: int | None, rng: random.Random
) -> None:
    records = make_records(num_bytes)
    shuffled = rng.sample(records, len(records))
    assert plan(records, seed=seed) == plan(shuffled, seed=seed)


@given(sizes, seeds, st.integers(1, 10**6))
def test_loses_nothing_and_keeps_the_size(num_bytes: list[int], seed: int | None, shard_bytes: int) -> None:
    records = make_records(num_bytes)
    shards = plan(records, shard_bytes, seed).shards
    assert sorted(record for shard in shards for record in shard.records) == sorted(records)
    assert [shard.name for shard in shards] == [f"train-{i:06d}" for i in range(len(shards))]
    assert all(shard.records for shard in shards)
    largest = max(num_bytes) + 4 * 512
    assert all(shard.num_bytes <= shard_bytes + largest for shard in shards)


def test_shards_are_even() -> None:
    sizes_in_plan = [shard.num_bytes for shard in plan(make_records([1000] * 101), 30_000).shards]
    assert max(sizes_in_plan) - min(sizes_in_plan) <= 3072


def test_shuffle_mixes_classes_and_no_shuffle_keeps_the_order() -> None:
    records = make_records([1000] * 90)
    (ordered,) = plan(records, 10**9, seed=None).shards
    assert [record.path for record in ordered.records] == sorted(record.path for record in records)
    for shard in plan(records, 60_000).shards:
        assert {record.label for record in shard.records} == {0, 1, 2}


def test_digest_tells_everything_apart() -> None:
    records = make_records([1000] * 9)
    grown = [*records[:-1], records[-1]._replace(source=RangeSource("images.tar", 0, 1001))]
    plans = [
        plan(records),
        plan(records, seed=1),
        plan(records, seed=None),
        plan(records, shard_bytes=9_000),
        plan(records, split="test"),
        plan(records, images=ImagePolicy(decode_check=True)),
        plan(records, images=ImagePolicy(shorter_side=256)),
        plan(records, deduplicate=True),
        plan(records[:-1]),
        plan(grown),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_golden_digest() -> None:
    """A release must not plan the same build otherwise without a new FORMAT_VERSION."""
    assert (
        plan(make_records([1000, 2000, 3000] * 30)).digest
        == "716872498b19655ad59e787a1b68374ecf60d13f5fa23d2110747686c1b8c719"
    )


def test_refuses_nothing_and_twins() -> None:
    with pytest.raises(PlanError, match="no images"):
        plan([])
    with pytest.raises(PlanError, match="the same key"):
        plan(make_records([1]) * 2)


@pytest.mark.parametrize("num_bytes", [0, 1, 512, 513, 5000])
def test_metadata_take_their_place_in_the_tar(num_bytes: int) -> None:
    """A header, and whole blocks."""
    (bare,) = plan(make_records([700])).shards
    record = make_records([700])[0]._replace(metadata=RangeSource("facts.tar", 0, num_bytes))
    (shard,) = plan([record], keep_metadata=True).shards
    assert shard.records[0].metadata
    num_bytes = shard.records[0].metadata.num_bytes
    assert shard.num_bytes - bare.num_bytes == 512 * (1 + -(-num_bytes // 512))


def test_an_image_that_cannot_be_taken_is_a_record_and_another_file_is_counted() -> None:
    lost = Lost("c0/x.tif", "is in a format that is not known")
    found = plan([*make_records([10]), lost, Other("c0/notes.txt", ".txt")])
    assert [record.path for shard in found.shards for record in shard.records if record.path == "c0/x.tif"]
    assert found.num_images == 2 and found.left_out == {".txt": 1}


def test_the_version_of_the_image_library_is_part_of_a_plan_that_changes_images() -> None:
    records = make_records([10, 20])
    assert plan(records, images=ImagePolicy(shorter_side=32)).options["pillow"] == PIL.__version__
    assert "pillow" not in plan(records, images=ImagePolicy(decode_check=True)).options
