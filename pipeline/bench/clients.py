"""Compare clients of S3 below our store: same shards, parts, threads and retries; the bytes are thrown away.

s3fs                the client in use
obstore             a client in Rust with an fsspec interface
s3torchconnector    Amazon's own client, in C, without an fsspec interface; `_Connector` adapts it

The last two are measured if they are installed. A round reads all shards once; the clients take turns.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.bench.report import Rows, print_table
from pipeline.console.command import write_json
from pipeline.console.progress import counted
from pipeline.errors import UserError
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from pipeline.store.client import Client


def _obstore() -> Any:
    module = importlib.import_module("obstore.fsspec")
    return module.FsspecStore("s3", client_options={"allow_http": True}, retry_config={"max_retries": 0})


class _Connector:
    """s3torchconnector with the few methods of a file system that the store uses."""

    async_impl = False

    def __init__(self) -> None:
        client = importlib.import_module("s3torchconnector._s3client")
        reader = importlib.import_module("s3torchconnector.s3reader")
        self._new_reader = reader.S3ReaderConstructor.range_based()
        config = client.S3ClientConfig(force_path_style=True, max_attempts=1)
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        self._client = client.S3Client(
            os.environ.get("AWS_REGION", "us-east-1"), endpoint=endpoint, s3client_config=config
        )

    def info(self, path: str) -> dict[str, Any]:
        bucket, _, key = path.partition("/")
        return {"size": self._client.head_object(bucket, key).size, "type": "file"}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        bucket, _, key = path.partition("/")
        reader = self._client.get_object(bucket, key, reader_constructor=self._new_reader)
        reader.seek(start)
        return bytes(reader.read(end - start))


def _stores(url: str) -> dict[str, Store]:
    """A store for each client that is installed."""
    stores = {"s3fs": Store(url)}
    if stores["s3fs"].local_path("") is not None:
        raise UserError(f"{url} is a local folder, but this compares clients of S3; give a URL that begins with s3://")
    others: dict[str, Callable[[], Any]] = {"obstore": _obstore, "s3torchconnector": _Connector}
    for name, new_file_system in others.items():
        if importlib.util.find_spec(name):
            stores[name] = Store(url, partial(_client, new_file_system))
    return stores


def _client(new_file_system: Callable[[], Any], url: str) -> Client:
    """The store's client with another file system. `is_s3` is off: those calls need s3fs."""
    client = Client(url)
    client.fs, client.is_s3 = new_file_system(), False
    return client


def measure(url: str, num_threads: int, rounds: int) -> Rows:
    """Medians over `rounds`; CPU seconds are those of this process."""
    stores = _stores(url)
    manifest = read_manifest(stores["s3fs"])
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in counted(range(rounds), "measuring", rounds, "rounds"):
        for name, store in stores.items():
            begin = time.perf_counter(), _cpu_seconds()
            num_bytes = _read_all(store, [entry.tar_name for entry in manifest.shards], num_threads)
            assert num_bytes == manifest.num_bytes
            took = time.perf_counter() - begin[0], _cpu_seconds() - begin[1]
            seconds.setdefault(name, []).append(took)
    return {name: _row(manifest.num_bytes, times, seconds["s3fs"]) for name, times in seconds.items()}


def _read_all(store: Store, names: list[str], num_threads: int) -> int:
    def read(name: str) -> int:
        return sum(map(len, store.parts(name)))

    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(read, names))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _row(num_bytes: int, took: list[tuple[float, float]], s3fs: list[tuple[float, float]]) -> dict[str, object]:
    median_s = statistics.median(wall_s for wall_s, _ in took)
    return {
        "seconds": median_s,
        "cpu_seconds": statistics.median(cpu_s for _, cpu_s in took),
        "megabytes_per_second": num_bytes / 1e6 / median_s,
        "speed_to_s3fs": statistics.median(theirs[0] / own[0] for own, theirs in zip(took, s3fs, strict=True)),
    }


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    rows = measure(arguments.url, arguments.num_threads, arguments.rounds)
    if arguments.json:
        conditions = {name: getattr(arguments, name) for name in ("url", "num_threads", "rounds")}
        write_json({**conditions, "read": rows})
    else:
        print_table(f"once through all shards, {arguments.num_threads} threads", rows)
