"""The first epoch of a new process over a data set on the local disk, in interleaved rounds.

ours        open the stream, then one shuffled epoch; every image is read and compared with its checksum
litdata     the same images as chunks of LitData, read with its shuffle, if it is installed (pip install litdata)
files       the tars, read from front to back in pieces of 1 MiB: an upper bound

Each is a process of its own. Its start and its imports are not in the times. What the system has cached stays cached,
so this measures the program and not the disk.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.bench.report import Rows, print_table
from pipeline.console.command import write_json
from pipeline.console.progress import counted
from pipeline.errors import UserError
from pipeline.library.map_style import Shards
from pipeline.order import OrderConfig
from pipeline.shards.data_sets import open_data_set
from pipeline.stream import StreamConfig, open_training_stream

_PIECE_BYTES = 2**20
_RATE = "megabytes_per_second"
_CHUNK_BYTES = "64MB"  # LitData's default
Sizes = Iterator[int]
"""The number of bytes of each image that is handed out."""


def _ours(folder: str, batch_size: int, num_threads: int) -> Sizes:
    config = StreamConfig(shards=folder, num_threads=num_threads, order=OrderConfig())
    for batch in open_training_stream(config, 0, batch_size):
        yield from map(len, batch.images)


def _litdata(folder: str, batch_size: int, num_threads: int) -> Sizes:
    del batch_size, num_threads
    yield from map(len, importlib.import_module("litdata").StreamingDataset(folder, shuffle=True, seed=0))


def _files(folder: str, batch_size: int, num_threads: int) -> Sizes:
    del batch_size, num_threads
    buffer = memoryview(bytearray(_PIECE_BYTES))
    for path in sorted(Path(folder).glob("*.tar")):
        with path.open("rb", buffering=0) as file:
            while num_bytes := file.readinto(buffer):
                yield num_bytes


_CONTESTANTS: dict[str, Callable[[str, int, int], Sizes]] = {"ours": _ours, "litdata": _litdata, "files": _files}


def _child() -> None:
    """Read one epoch in this process and print what it took."""
    name, folder, batch_size, num_threads = sys.argv[1:5]
    if name == "litdata":
        importlib.import_module(name)
    begin, num_bytes, first_s = time.perf_counter(), 0, 0.0
    for number, size in enumerate(_CONTESTANTS[name](folder, int(batch_size), int(num_threads)), start=1):
        num_bytes += size
        if number == (1 if name == "files" else int(batch_size)):
            first_s = time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    sys.stdout.write(json.dumps({"first_batch_s": first_s, _RATE: num_bytes / 1e6 / seconds}))


def _measure(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    sizes = str(arguments.batch_size), str(arguments.num_threads)
    command = [sys.executable, "-m", __name__, name, str(folder), *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"'{name}' failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write_chunks(url: str, folder: Path) -> None:
    """The images as LitData writes them."""
    writer = importlib.import_module("litdata.streaming.writer").BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, sample in enumerate(Shards(url)):
        writer.add_item(number, sample.encoded)
    writer.done()
    writer.merge()


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    data_set = open_data_set(arguments.url)
    local = data_set.store.local_path("")
    if local is None:
        raise UserError(f"{arguments.url} is not a local folder; 'pipeline-bench stream' measures remote stores")
    with tempfile.TemporaryDirectory(dir=arguments.temporary_dir) as name:
        folders = {"ours": local, "files": local}
        if importlib.util.find_spec("litdata"):
            folders["litdata"] = Path(name)
            _write_chunks(arguments.url, Path(name))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
        for _ in counted(range(arguments.rounds), "measuring", arguments.rounds, "rounds"):
            for name, folder in folders.items():
                found[name].append(_measure(name, folder, arguments))
    rows: Rows = {name: _row(measured, found["ours"]) for name, measured in found.items()}
    if arguments.json:
        names = ("url", "batch_size", "num_threads", "rounds")
        write_json({**{name: getattr(arguments, name) for name in names}, "epoch": rows})
        return
    print_table(f"first epoch of {data_set.manifest.num_bytes / 1e6:,.0f} MB from the local disk", rows)
    if "litdata" not in rows:
        sys.stdout.write("litdata is not installed, so it was not measured\n")


def _row(measured: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, object]:
    medians = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
    ratios = [own[_RATE] / each[_RATE] for each, own in zip(measured, ours, strict=True)]
    return {**medians, "ours_to_this": statistics.median(ratios)}


if __name__ == "__main__":
    _child()
