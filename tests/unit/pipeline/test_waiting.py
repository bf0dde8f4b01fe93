"""The watchdog's knowledge: what is under way, for how long, and nothing that has ended."""

import logging
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline import waiting
from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.loader import DataConfig, open_loader
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.store import Store
from pipeline.stream import StreamConfig, open_training_stream
from support.shards import jpegs, write_shards


def test_phases_are_named_oldest_first_and_forgotten() -> None:
    with waiting.phase("download of a"), waiting.phase("read of b"):
        assert waiting.describe() == "download of a (0 s), read of b (0 s)"
    with pytest.raises(LookupError), waiting.phase("fails"):
        raise LookupError
    assert waiting.describe() == "nothing that is known of"


def test_a_loader_without_batches_says_which_shard_it_waits_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, let_go = f"memory://{tmp_path.name}", threading.Event()
    write_shards(shards, jpegs(8), jpegs(8, 8))
    parts = Store.parts

    def hang(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if name == "tiny-000001.tar":
            assert let_go.wait(20)
        return parts(store, name, start, stop)

    monkeypatch.setattr(Store, "parts", hang)
    cache = CacheConfig(folder=str(tmp_path))
    stream = StreamConfig(shards=shards, order=OrderConfig(lanes=1), cache=cache, num_threads=2)
    planner = MultiCrop(MultiCropConfig(views=(ViewGroup(size=16, count=1, area=(0.4, 1.0)),)), seed=0)
    config = DataConfig(stream=stream, num_threads=1, watchdog_s=0.3)
    threading.Timer(2.0, let_go.set).start()
    with (
        caplog.at_level(logging.WARNING),
        open_loader(open_training_stream(stream, 0, 16, rank=0), planner, config, torch.device("cpu")) as loader,
    ):
        assert len(next(islice(loader, 1)).ids) == 16
    assert "rank 0 has had no batch for" in caplog.text
    assert "download of tiny-000001.tar (" in caplog.text
