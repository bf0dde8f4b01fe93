"""One shard: what happens to images that are not what the plan saw, and to a destination that is not ours any more."""

import dataclasses
import errno
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.format.index import load_index
from pipeline.format.tar import ShardWriter
from pipeline.store import Store
from tools.shard_builder.build import writer
from tools.shard_builder.build.images import AS_THEY_ARE
from tools.shard_builder.build.journal import Claim, ClaimError, take
from tools.shard_builder.build.plan import ShardPlan, make_plan
from tools.shard_builder.build.writer import ScratchError, ShardTask, write_shard
from tools.shard_builder.readers import ImageFolder, Record
from tools.shard_builder.readers.sources import UnusableSource


def _altered(record: Record, **changes: Any) -> Record:
    source: Any = record.source  # each source is a dataclass
    return record._replace(source=dataclasses.replace(source, **changes))


def _task(store: Store, *records: Record) -> ShardTask:
    """All records in one shard, of a plan that has claimed the store."""
    plan = make_plan(records, ("ant",), dataset="d", split="train", shard_bytes=10**9, shuffle_seed=0)
    take(store, Claim.of(plan))
    return ShardTask(ShardPlan(0, "train-000000", records), store, plan.digest, AS_THEY_ARE, {})


@pytest.fixture
def records(tiny_image_folder: Path) -> tuple[Record, ...]:
    return tuple(ImageFolder(tiny_image_folder, "train").records())


def test_images_that_changed_or_went_are_rejected(records: tuple[Record, ...], tmp_path: Path) -> None:
    good, gone, grown, *_ = records
    store = Store(tmp_path / "out")
    task = _task(store, good, _altered(gone, path="ant/gone.jpg"), _altered(grown, num_bytes=1))
    result, seconds = write_shard(task)
    assert result.entry is not None and result.entry.num_samples == 1
    assert [reject.key for reject in result.rejects] == [gone.key, grown.key]
    assert not any(reject.by_choice for reject in result.rejects)
    index = load_index(tmp_path / "out" / result.entry.index_name, result.entry)
    assert (int(index[0]["width"]), int(index[0]["height"])) == Image.open(io.BytesIO(good.source.read())).size
    assert result.rejects[0].reason == "cannot be read: No such file or directory"
    assert result.rejects[1].reason.startswith("cannot be read: its size changed during the build, from 1 to ")
    assert seconds.keys() == {"read", "check", "pack", "publish"}
    assert store.list() == [
        "_build/done/000000.json",
        "_build/plan.json",
        "train-000000.idx",
        "train-000000.samples.npy",
        "train-000000.tar",
        "train-000000.tar.idx",
    ]


@dataclasses.dataclass(frozen=True)
class FlakySource:
    """Fails twice, as a file server does."""

    num_bytes: int
    data: bytes
    failures: list[int]

    def read(self) -> bytes:
        if self.failures:
            raise OSError(self.failures.pop(), "Input/output error")
        return self.data


def test_a_file_server_that_stumbles_costs_no_image(
    records: tuple[Record, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PAUSES_S", (0.0, 0.0))
    data = records[0].source.read()
    flaky = records[0]._replace(source=FlakySource(len(data), data, [errno.EIO, errno.ESTALE]))
    broken = records[1]._replace(source=FlakySource(len(data), data, [errno.EIO] * 3))
    result, _ = write_shard(_task(Store(tmp_path / "out"), flaky, broken))
    assert [reject.key for reject in result.rejects] == [broken.key]


def test_a_file_that_is_gone_is_not_waited_for(
    records: tuple[Record, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PAUSES_S", (0.0, 0.0))
    failures = [errno.ENOENT, errno.ENOENT]
    gone = records[0]._replace(source=FlakySource(1, b"", failures))
    unusable = records[1]._replace(source=UnusableSource("is in a format that is not known"))
    result, _ = write_shard(_task(Store(tmp_path / "out"), gone, unusable, *records[2:]))
    assert failures == [errno.ENOENT]
    assert [(reject.key, reject.by_choice) for reject in result.rejects] == [(gone.key, False), (unusable.key, False)]


def test_a_lost_claim_stops_the_writer(records: tuple[Record, ...], tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    old = _task(store, *records)
    store.delete("_build/plan.json")
    with pytest.raises(ClaimError, match=r"holds no _build/plan\.json"):
        write_shard(old)
    _task(store, *records[1:])  # someone else
    with pytest.raises(ClaimError, match="was taken by another build"):
        write_shard(old)
    assert store.list() == ["_build/plan.json"]


def test_a_full_disk_is_named(records: tuple[Record, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", no_space)
    with pytest.raises(ScratchError, match=rf"cannot write a shard in {tmp_path}/out: No space left on device"):
        write_shard(_task(Store(tmp_path / "out"), *records))
