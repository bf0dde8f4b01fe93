"""Every dashboard query against a real Prometheus that scrapes a run of two ranks."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from support.prometheus import Prometheus, dashboard_queries
from support.training import begin, build_shards

pytestmark = [pytest.mark.slow, pytest.mark.s3]


def test_every_dashboard_query_returns_data(
    tiny_image_folder: Path, s3_server: Any, prometheus: Prometheus, tmp_path: Path
) -> None:
    shards = f"{s3_server.new_url()}/shards"
    build_shards(tiny_image_folder, shards, s3_server.env)
    output = tmp_path / "run"
    (output / "targets").parent.mkdir(parents=True)
    (output / "targets").symlink_to(prometheus.targets_dir)
    # No room for shards that are not needed at once, and few of those: the run reads from the store all the time.
    cramped = ("cache.max_bytes=1", "shard_look_ahead_bytes=0", "sample_look_ahead_steps=0", "order.block_shards=1")
    settings = ("schedule.epochs=10000", "checkpoint.every_steps=100000", *(f"data.stream.{name}" for name in cramped))
    with begin(output, shards, *settings, num_ranks=2, env=s3_server.env) as run:
        missing = dashboard_queries()
        deadline = time.monotonic() + 120
        while missing and run.is_running() and time.monotonic() < deadline:
            time.sleep(0.5)
            missing = {name: query for name, query in missing.items() if not _numbers(prometheus, query)}
        ranks = {sample["metric"]["rank"] for sample in prometheus.query("esvit_train_steps_total")}
    assert missing == {}
    assert ranks == {"0", "1"}


def _numbers(prometheus: Prometheus, query: str) -> list[float]:
    values = [float(sample["value"][1]) for sample in prometheus.query(query)]
    return [value for value in values if not math.isnan(value)]
