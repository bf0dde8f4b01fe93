"""The stream (store -> cache -> encoded samples) against its upper bound: seconds per epoch in interleaved rounds.

cold            empty cache: shards are downloaded, written and read, images verified, and the cache is removed
cold-ceiling    the same client downloads the same objects with as many threads and throws the bytes away; nothing is
                written or verified
warm            full cache, shards open, as in every epoch after the first; every image is read and compared with its
                checksum
warm-ceiling    the same ranges of the same open files, read in the same order with as many threads into reused memory

A store that is a local folder is read in place and has no cold round.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.bench.folders import cache_folder
from pipeline.bench.report import Rows, print_table
from pipeline.buffers import BufferPool
from pipeline.console.command import write_json
from pipeline.console.progress import counted
from pipeline.format.index import load_index
from pipeline.order import OrderConfig, SampleOrder
from pipeline.prefetch import prefetch
from pipeline.shards.cache import CacheConfig
from pipeline.shards.data_sets import open_data_set
from pipeline.stream import SampleStream, StreamConfig

Range = tuple[int, int, int]
"""File descriptor, size and offset in bytes."""


class StreamBench:
    """One data set, its order, and the ways to read an epoch of it."""

    def __init__(self, url: str, cache_dir: Path, batch_size: int, threads: int, lanes: int) -> None:
        self._data_set, self._cache_dir, self._threads = open_data_set(url), cache_dir, threads
        self._store, self.manifest = self._data_set.store, self._data_set.manifest
        self._url, self._batch_size, self._lanes = url, batch_size, lanes
        self._order = self._new_order()
        self.is_remote = self._store.local_path("") is None
        self._warm_stream = self._new_stream(cache_dir)
        self.num_samples = self._order.num_steps * batch_size

    def contestants(self) -> dict[str, Callable[[], None]]:
        """Name -> function that reads one epoch; the cold ones first."""
        warm = {"warm-ceiling": self._warm_ceiling, "warm": lambda: self._epoch(self._warm_stream)}
        return {"cold-ceiling": self._cold_ceiling, "cold": self._cold, **warm} if self.is_remote else warm

    def run(self, rounds: int) -> Rows:
        """Medians over `rounds`, in which the contestants take turns. `ratio` is to the ceiling of the same round."""
        self._epoch(self._warm_stream)  # fills the cache
        self._ranges = self._epoch_ranges()
        seconds: dict[str, list[float]] = {name: [] for name in self.contestants()}
        for _ in counted(range(rounds), "measuring", rounds, "rounds"):
            for name, epoch in self.contestants().items():
                begin = time.perf_counter()
                epoch()
                seconds[name].append(time.perf_counter() - begin)
        return {name: self._row(times, seconds[f"{name.split('-')[0]}-ceiling"]) for name, times in seconds.items()}

    def _row(self, seconds: list[float], ceiling: list[float]) -> dict[str, object]:
        median_s = statistics.median(seconds)
        return {
            "seconds": median_s,
            "megabytes_per_second": self.manifest.num_bytes / 1e6 / median_s,
            "samples_per_second": self.num_samples / median_s,
            "ratio": statistics.median(most / own for own, most in zip(seconds, ceiling, strict=True)),
        }

    def _new_order(self) -> SampleOrder:
        return SampleOrder(self._data_set.shard_sizes, 0, self._batch_size, OrderConfig(lanes=self._lanes))

    def _new_stream(self, cache_dir: Path) -> SampleStream:
        config = StreamConfig(shards=self._url, cache=CacheConfig(folder=str(cache_dir)), num_threads=self._threads)
        return SampleStream([self._data_set], self._new_order(), config)

    def _epoch(self, stream: SampleStream) -> None:
        for _ in stream:
            pass

    def _cold(self) -> None:
        with tempfile.TemporaryDirectory(dir=self._cache_dir) as folder:
            self._epoch(self._new_stream(Path(folder)))

    def _cold_ceiling(self) -> None:
        def read(name: str) -> None:
            for _ in self._store.parts(name):
                pass

        names = [name for entry in self.manifest.shards for name in (entry.index_name, entry.tar_name)]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(read, names))

    def _warm_ceiling(self) -> None:
        num_bytes = [sum(size for _, size, _ in batch) for batch in self._ranges]
        buffers = BufferPool()

        def read(batch: list[Range]) -> memoryview:
            buffer = memoryview(buffers.empty((1, max(num_bytes)), np.uint8)[0])
            start = 0
            for file, size, offset in batch:
                start += os.preadv(file, [buffer[start : start + size]], offset)
            return buffer

        look_ahead = StreamConfig(shards=self._url).sample_look_ahead_steps
        for _ in prefetch(read, self._ranges, self._threads, look_ahead, "ceiling"):
            pass

    def _epoch_ranges(self) -> list[list[Range]]:
        """The ranges that an epoch reads from the cache, per batch; the files stay open."""
        folder = self._store.local_path("") or self._cache_dir / self.manifest.digest[:16]
        rows: list[Range] = []
        for entry in self.manifest.shards:
            file = os.open(folder / entry.tar_name, os.O_RDONLY)
            index = load_index(folder / entry.index_name, entry)
            rows += [(file, int(row["size"]), int(row["offset"])) for row in index]
        steps = range(self._order.num_steps)
        return [[rows[i] for i in self._order.batch(0, step).tolist()] for step in steps]


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    with cache_folder(arguments.cache_dir) as folder:
        bench = StreamBench(arguments.url, folder, arguments.batch_size, arguments.num_threads, arguments.lanes)
        rows = bench.run(arguments.rounds)
    if arguments.json:
        names = ("url", "batch_size", "num_threads", "lanes", "rounds")
        write_json({**{name: getattr(arguments, name) for name in names}, "epoch": rows})
    else:
        print_table(f"one epoch of {bench.num_samples} samples, {arguments.num_threads} threads", rows)
