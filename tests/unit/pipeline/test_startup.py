"""Ten thousand shards cost a start of seconds and megabytes, and no step more."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.order import OrderConfig, SampleOrder
from pipeline.store import Store
from support.shards import jpegs, sign, write_shards

NUM_SHARDS = 10_000

# CPU time, which other processes on the machine do not add to.
CHILD = """
import json, sys, time
from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig, open_training_stream
begin_s = time.process_time()
stream = open_training_stream(StreamConfig(shards=sys.argv[1]), 0, 64)
batch = next(iter(stream))
seconds = time.process_time() - begin_s
status = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(json.dumps({"samples": len(batch.ids), "seconds": seconds, "megabytes": int(status) / 1000}))
"""


@pytest.fixture
def many_shards() -> Iterator[Path]:
    """10,000 shards that are links to one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_shards(folder, jpegs(4))
        (entry,) = manifest.shards
        entries = [entry.replace(name=f"tiny-{i:06d}") for i in range(NUM_SHARDS)]
        for other in entries[1:]:
            os.link(folder / entry.tar_name, folder / other.tar_name)
            os.link(folder / entry.index_name, folder / other.index_name)
        sign(Store(folder), entries)
        yield folder


def test_ten_thousand_shards_start_in_two_seconds_and_200_megabytes(many_shards: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(many_shards)], capture_output=True, text=True, check=True, timeout=60
    )
    result = json.loads(done.stdout)
    assert result["samples"] == 64
    assert result["seconds"] < 2 and result["megabytes"] < 200


def test_fourteen_million_samples_are_sought_directly_and_cheaply() -> None:
    order = SampleOrder([1400] * NUM_SHARDS, 0, 1024, OrderConfig())
    order.batch(500, order.num_steps - 1)
    lanes = order._lanes
    blocks = lanes._block.cache_info()
    assert blocks.misses == order.config.lanes  # one block a lane, whatever lies before
    line_bytes = sum(part.nbytes for part in lanes._line(500))
    block_bytes = lanes._block_size * np.dtype(np.int64).itemsize
    kept = 2 * line_bytes + (blocks.maxsize or 0) * block_bytes + lanes._shard_starts.nbytes
    assert kept < 10e6
