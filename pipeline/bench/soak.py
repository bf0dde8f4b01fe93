"""Hours of streaming in minutes: full speed with eviction forced; memory and open files have to stay flat.

The first fifth of the time is warm-up. Drift is the median memory of the last fifth against that of the second.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil

from pipeline.bench.report import Rows, print_table
from pipeline.command import run_command
from pipeline.errors import UserError
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.stream import StreamConfig, open_training_stream

_INTERVAL_S = 0.25


def soak(config: StreamConfig, seconds: float, batch_size: int) -> dict[str, object]:
    """Stream for so long; what it moved and how memory and open files developed."""
    stream = open_training_stream(config, seed=0, global_batch=batch_size)
    process = psutil.Process()
    memory: list[int] = []
    files: list[int] = []
    begin_s = due_s = time.monotonic()
    with closing(iter(stream)) as batches:  # type: ignore[type-var]
        for _ in batches:
            now_s = time.monotonic()
            if now_s >= due_s:
                memory.append(process.memory_info().rss)
                files.append(process.num_fds())
                due_s = now_s + _INTERVAL_S
            if now_s > begin_s + seconds:
                break
    if len(memory) < 5:
        raise UserError(f"{seconds:.0f} seconds are too short for a soak of this data set; raise --seconds")
    fifth = len(memory) // 5
    early, late = statistics.median(memory[fifth : 2 * fifth]), statistics.median(memory[-fifth:])
    return {
        "samples": stream.position * batch_size,
        "epochs": stream.position / stream.steps_per_epoch,
        "memory_mb": late / 1e6,
        "memory_drift": late / early - 1,
        "files_early": max(files[fifth : 2 * fifth]),
        "files_late": max(files[-fifth:]),
    }


def _run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.cache_dir) as folder:
        config = StreamConfig(
            shards=arguments.data,
            order=OrderConfig(lanes=arguments.lanes),
            cache=CacheConfig(folder=folder, max_bytes=arguments.cache_bytes) if arguments.cache_bytes else None,
            num_threads=arguments.threads,
        )
        row = soak(config, arguments.seconds, arguments.batch_size)
    if arguments.json:
        sys.stdout.write(json.dumps({"data": arguments.data, "seconds": arguments.seconds, **row}) + "\n")
    else:
        rows: Rows = {"stream": row}
        print_table(f"{arguments.seconds:.0f} s of {arguments.data}", rows)


def main(words: list[str]) -> None:
    """`pipeline-bench soak`."""
    parser = argparse.ArgumentParser("pipeline-bench soak", description="Stream for long; watch memory and files.")
    parser.add_argument("--data", required=True, metavar="URL", help="shards to read")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--cache-bytes", type=int, default=0, help="of the cache; small ones evict all the time")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=8, help="of the order; a divisor of the batch size")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where the shards go (a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(words)
    run_command(lambda: _run(arguments))
