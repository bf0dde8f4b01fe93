"""One shard: what happens to images that are not what the plan saw."""

from pathlib import Path

from pipeline.store import Store
from tools.shard_builder.plan import ShardPlan
from tools.shard_builder.readers import ImageFolder
from tools.shard_builder.writer import ShardTask, write_shard


def test_images_that_changed_or_went_are_rejected(tiny_image_folder: Path, tmp_path: Path) -> None:
    reader = ImageFolder(tiny_image_folder, "train")
    good, gone, grown, *_ = reader.records()
    records = (good, gone._replace(path="ant/gone.jpg"), grown._replace(num_bytes=1))
    store = Store(tmp_path / "out")
    result = write_shard(ShardTask(ShardPlan(0, "train-000000", records), reader, store))
    assert result.entry is not None and result.entry.num_samples == 1
    assert [reject.key for reject in result.rejects] == [gone.key, grown.key]
    assert result.rejects[0].reason == "cannot be read: No such file or directory"
    assert result.rejects[1].reason.startswith("its size changed during the build, from 1 to ")
    assert store.list() == ["_build/done/000000.json", "train-000000.index.npy", "train-000000.tar"]
