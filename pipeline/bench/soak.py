"""Find leaks: stream at full speed with constant eviction; memory and open files must not grow.

The first fifth of the time is warm-up. Drift is the median memory of the last fifth against the second fifth.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing

import psutil

from pipeline.bench.folders import cache_folder
from pipeline.bench.report import Rows, print_table
from pipeline.console.command import write_json
from pipeline.console.progress import progress
from pipeline.errors import UserError
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.stream import StreamConfig, open_training_stream

_INTERVAL_S = 0.25


def soak(config: StreamConfig, seconds: float, batch_size: int) -> dict[str, object]:
    """Stream for `seconds`. Returns the amount of data, memory and open files."""
    stream = open_training_stream(config, seed=0, global_batch=batch_size)
    process = psutil.Process()
    memory: list[int] = []
    files: list[int] = []
    begin_s = time.monotonic()
    due_s = begin_s + _INTERVAL_S
    with progress("streaming", seconds, "seconds") as advance, closing(stream.forever()) as batches:
        for _ in batches:
            now_s = time.monotonic()
            if now_s >= due_s:
                advance(now_s - due_s + _INTERVAL_S)
                memory.append(process.memory_info().rss)
                files.append(process.num_fds())
                due_s = now_s + _INTERVAL_S
            if now_s > begin_s + seconds:
                break
    if len(memory) < 5:
        raise UserError(f"{seconds:g} seconds are too short to measure this data set; raise --seconds")
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


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    with cache_folder(arguments.cache_dir) as parent, tempfile.TemporaryDirectory(dir=parent) as folder:
        config = StreamConfig(
            shards=arguments.url,
            order=OrderConfig(lanes=arguments.lanes),
            cache=CacheConfig(folder=folder, max_bytes=arguments.cache_bytes),
            num_threads=arguments.num_threads,
        )
        row = soak(config, arguments.seconds, arguments.batch_size)
    if arguments.json:
        write_json({"url": arguments.url, "seconds": arguments.seconds, **row})
    else:
        rows: Rows = {"stream": row}
        print_table(f"{arguments.seconds:.0f} s of {arguments.url}", rows)
