"""How fast a build is, compared with other tools: the command `shard-builder bench`.

On a local disk the rivals are `tar cf` followed by `sha256sum`, and webdataset's `ShardWriter` in one process.
`ShardWriter` runs twice: as it is (shards stay in the page cache), and with one `fsync` per shard, as a build does. On
S3 the rival is the upload of the finished tars by the same client library, one after the other. The rounds are
interleaved, the source lies in memory (page cache), and the time of a build includes the start of its processes.
"""

import argparse
import itertools
import math
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
from rich.table import Table

from pipeline.console.command import (
    Commands,
    add_command,
    add_json_flag,
    not_empty,
    path,
    positive,
    positive_number,
    write_json,
)
from pipeline.console.tables import print_table
from pipeline.errors import UserError
from pipeline.store import Store
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.arguments import add_workers_flag
from tools.shard_builder.readers import ImageFolder, SourceError

_BUILD = "shard-builder"
_SHARD_BYTES = 256_000_000
_PROBE = "probe"


class BenchError(UserError):
    """The source or the destination cannot be used."""


def add_bench_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "bench", "how fast builds are here, side by side with tar and webdataset", _bench)
    command.add_argument("--source", type=path, required=True, metavar="DIR", help="an image folder")
    command.add_argument(
        "--dest",
        type=not_empty,
        required=True,
        metavar="URL",
        help="an empty folder or S3 prefix; emptied at the end",
    )
    command.add_argument(
        "--gigabytes", type=positive_number, default=2.0, metavar="G", help="repeat the images up to this size"
    )
    add_workers_flag(command)
    command.add_argument(
        "--rounds", type=positive, default=3, metavar="N", help="measurements, of which the median counts"
    )
    add_json_flag(command)


def _bench(args: argparse.Namespace) -> None:
    num_workers = args.num_workers or os.cpu_count() or 1
    _check_places(args.dest, args.gigabytes)
    with tempfile.TemporaryDirectory(prefix="shard-builder-bench-") as scratch:
        images = Path(scratch) / "images"
        num_bytes = _repeat(args.source, images, math.ceil(args.gigabytes * 1e9))
        warm_up = BuildOptions(
            "image-folder", images, "train", f"{scratch}/shards", _SHARD_BYTES, num_workers=num_workers
        )
        build(warm_up)
        # Read it now: later children are not our workers, and they start with the memory of this process.
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        methods = dict(_methods(warm_up, args.dest))
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for _, (name, run) in itertools.product(range(args.rounds), methods.items()):
            os.sync()
            started_s = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started_s)
            _remove(args.dest)
    report = {
        "mb": round(num_bytes / 1e6, 1),
        "num_workers": num_workers,
        "peak_mb_of_a_worker": round(peak_mb, 1),
        "mb_per_s": {name: _rate(num_bytes, times) for name, times in seconds.items()},
    }
    write_json(report) if args.json else print_table(_table(report))


def _rate(num_bytes: int, seconds: Sequence[float]) -> float:
    """MB/s, to four digits."""
    return float(f"{num_bytes / 1e6 / statistics.median(seconds):.4g}")


def _check_places(dest: str, gigabytes: float) -> None:
    """Refuse a destination that is not empty, because bench empties it, and a temporary folder that is too small."""
    needed, free = 2e9 * gigabytes, shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise BenchError(
            f"--gigabytes {gigabytes:g} needs {needed / 1e9:,.1f} GB in {tempfile.gettempdir()}, where "
            f"{free / 1e9:,.1f} GB are free; choose less, or set the variable TMPDIR to another folder"
        )
    store = Store(dest)
    if store.list():
        raise BenchError(f"--dest {dest} is not empty, and bench removes it at the end; choose a new place")
    store.put(_PROBE, b"")  # refused now, not after the images have been copied
    _remove(dest)


def _repeat(source: Path, folder: Path, num_bytes: int) -> int:
    """Copy the images to `CLASS/NUMBER-NAME` until there are `num_bytes`; returns the bytes that were copied."""
    records = list(ImageFolder(source, "train").records())
    if not any(record.num_bytes for record in records):
        raise SourceError(f"source {source} holds no images to repeat")
    copied = 0
    for number, record in enumerate(itertools.cycle(records)):
        if copied >= num_bytes:
            return copied
        target = folder / Path(record.path).parent / f"{number:07d}-{Path(record.path).name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        copied += target.write_bytes(record.source.read())
    raise AssertionError


def _methods(built: BuildOptions, dest: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    if folder := Store(dest).local_path(""):
        yield "tar cf, then sha256sum", lambda: _tar_and_hash(built.source, folder)
        yield "webdataset ShardWriter", _shard_writer(built.source, folder)
        yield "the same, on the disk", _shard_writer(built.source, folder, _to_disk)
    else:
        tars = sorted(Path(built.dest).glob("*.tar"))
        yield "plain multipart upload", lambda: _upload(tars, dest)
    yield _BUILD, lambda: build(replace(built, dest=dest))


def _tar_and_hash(images: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "cf", folder / "all.tar", "-C", images, "."], check=True)
    subprocess.run(["sha256sum", folder / "all.tar"], check=True, stdout=subprocess.DEVNULL)


def _to_disk(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _shard_writer(images: Path, folder: Path, post: Callable[[str], None] | None = None) -> Callable[[], None]:
    import webdataset  # brings torch where it is installed: not for those who only build shards

    reader = ImageFolder(images, "train")

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        limits = {"maxsize": _SHARD_BYTES, "maxcount": 10**9}
        with webdataset.ShardWriter(f"{folder}/%06d.tar", **limits, post=post, verbose=0) as writer:
            for record in reader.records():
                writer.write({"__key__": record.key, "jpg": record.source.read(), "cls": record.label})

    return write


def _upload(tars: list[Path], dest: str) -> None:
    store, url = fsspec.core.url_to_fs(dest)
    for tar in tars:
        store.put_file(str(tar), f"{url}/{tar.name}", chunksize=16 * 2**20, max_concurrency=4)


def _remove(dest: str) -> None:
    if folder := Store(dest).local_path(""):
        shutil.rmtree(folder)
    else:
        store, url = fsspec.core.url_to_fs(dest, use_listings_cache=False)
        store.rm(url, recursive=True)


def _table(report: dict[str, Any]) -> Table:
    workers = f"{report['num_workers']} workers of up to {report['peak_mb_of_a_worker']:,} MB"
    table = Table("method", "MB/s", f"{_BUILD} is", title=f"{report['mb']:,} MB of images, {workers}")
    ours = report["mb_per_s"][_BUILD]
    for name, rate in report["mb_per_s"].items():
        table.add_row(name, f"{rate:,}", f"{ours / rate:.2f}x")
    return table
