"""One shard: what happens to images that are not what the plan saw."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.store import Store
from tools.shard_builder.plan import ShardPlan
from tools.shard_builder.readers import ImageFolder, Record
from tools.shard_builder.writer import ShardTask, write_shard


def _altered(record: Record, **changes: Any) -> Record:
    return record._replace(source=dataclasses.replace(record.source, **changes))


def test_images_that_changed_or_went_are_rejected(tiny_image_folder: Path, tmp_path: Path) -> None:
    good, gone, grown, *_ = ImageFolder(tiny_image_folder, "train").records()
    records = (good, _altered(gone, path="ant/gone.jpg"), _altered(grown, num_bytes=1))
    store = Store(tmp_path / "out")
    result = write_shard(ShardTask(ShardPlan(0, "train-000000", records), store))
    assert result.entry is not None and result.entry.num_samples == 1
    assert [reject.key for reject in result.rejects] == [gone.key, grown.key]
    assert result.rejects[0].reason == "cannot be read: No such file or directory"
    assert result.rejects[1].reason.startswith("cannot be read: its size changed during the build, from 1 to ")
    assert store.list() == ["_build/done/000000.json", "train-000000.index.npy", "train-000000.tar"]
