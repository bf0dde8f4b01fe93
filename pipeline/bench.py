"""pipeline-bench: images/s of the executors on the same images and plan, in interleaved rounds.

pipeline-bench --data shards/imagenet --executor reference,cpu,dali --json
pipeline-bench --data shards/imagenet --parity               differences to the reference, by operation
pipeline-bench --data shards/imagenet --sheet views.png      all views of a few images, to look at
"""

import argparse
import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.augment import EXECUTORS, Executor, MultiCrop, MultiCropConfig, build_executor
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.augment.parity import Parity
from pipeline.errors import UserError, run_command
from pipeline.loader import render
from pipeline.order import SequentialOrder
from pipeline.store import Store, read_manifest
from pipeline.stream import EncodedBatch, SampleStream, StreamConfig

_THUMBNAIL = 112
_SHEET_IMAGES = 6


class Bench:
    """Encoded batches in memory, and the executors to compare on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        store = Store(arguments.data)
        manifest = read_manifest(store)
        order = SequentialOrder(manifest.num_samples, min(arguments.batch_size, manifest.num_samples))
        num_images = min(arguments.images, manifest.num_samples)
        self._stream = SampleStream(manifest, store, order, StreamConfig(shards=arguments.data))
        self._batches = list(islice(self._stream, -(-num_images // order.global_batch)))
        self._planner = MultiCrop(MultiCropConfig(), seed=0)
        device = torch.device(arguments.device)
        self._executors = {name: build_executor(name, arguments.threads, device) for name in arguments.executor}

    def speed(self, rounds: int) -> dict[str, dict[str, float]]:
        """Images/s of each executor: the median over `rounds`, executors in turn within each."""
        seconds: dict[str, list[float]] = {name: [] for name in self._executors}
        for executor in self._executors.values():
            self._views(executor, self._batches[0])  # warm-up: threads, graphs, tables
        for _ in range(rounds):
            for name, executor in self._executors.items():
                begin = time.perf_counter()
                for batch in self._batches:
                    self._views(executor, batch)
                if executor.device.type == "cuda":
                    torch.cuda.synchronize(executor.device)
                seconds[name].append(time.perf_counter() - begin)
        num_images = sum(len(batch.ids) for batch in self._batches)
        speeds = {name: num_images / statistics.median(times) for name, times in seconds.items()}
        first = next(iter(speeds.values()))
        return {name: {"images_per_second": speed, "ratio": speed / first} for name, speed in speeds.items()}

    def parity(self) -> dict[str, dict[str, object]]:
        """Differences of each executor to the first."""
        first, *others = self._executors
        found = {name: Parity() for name in others}
        for batch in self._batches:
            expected = self._views(self._executors[first], batch)
            plan = self._planner(batch.epoch, batch.ids, batch.heights, batch.widths)
            for name in others:
                found[name].add(expected, self._views(self._executors[name], batch), plan)
        return {name: parity.summary() for name, parity in found.items()}

    def sheet(self) -> Image.Image:
        """Thumbnails: a row an image and executor, a column a view."""
        rows = []
        views = {name: self._views(executor, self._batches[0]) for name, executor in self._executors.items()}
        for b in range(min(_SHEET_IMAGES, len(self._batches[0].ids))):
            for groups in views.values():
                rows.append(np.hstack([_thumbnail(view[b]) for group in groups for view in group]))
        return Image.fromarray(np.vstack(rows))

    def close(self) -> None:
        """Release the executors."""
        for executor in self._executors.values():
            executor.close()

    def _views(self, executor: Executor, batch: EncodedBatch) -> list[torch.Tensor]:
        return render(batch, self._planner, executor, self._stream.neighbour)[0]


def _thumbnail(view: torch.Tensor) -> NDArray[np.uint8]:
    pixels = view.cpu().permute(1, 2, 0).numpy() * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    image = Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((_THUMBNAIL, _THUMBNAIL)))


def _write(sheet: Image.Image, path: Path) -> None:
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def report(results: dict[str, object], as_json: bool) -> None:
    """Print what was measured: one JSON object, or a table an entry."""
    if as_json:
        sys.stdout.write(json.dumps(results) + "\n")
        return
    for title, rows in results.items():
        if not isinstance(rows, dict):
            continue
        table = Table("executor", *next(iter(rows.values())), title=title)
        for name, columns in rows.items():
            table.add_row(name, *map(_cell, columns.values()))
        Console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {number:.3f}" for name, number in value.items())
    if isinstance(value, list):
        return " ".join(f"{number:.2f}" for number in value)
    return f"{value:.4g}"


def run(arguments: argparse.Namespace) -> int:
    """The command."""
    bench = Bench(arguments)
    try:
        if arguments.sheet:
            _write(bench.sheet(), arguments.sheet)
            sys.stderr.write(f"wrote {arguments.sheet}\n")
            return 0
        conditions = {"data": arguments.data, "threads": arguments.threads, "device": arguments.device}
        if arguments.parity:
            report({**conditions, "differences in 1/255": bench.parity()}, arguments.json)
        else:
            report({**conditions, "ten views an image": bench.speed(arguments.rounds)}, arguments.json)
    finally:
        bench.close()
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare the executors of the augmentation plan.")
    parser.add_argument("--data", required=True, metavar="URL", help="shards to read")
    parser.add_argument(
        "--executor", type=_names, default=_names("reference,cpu"), help=f"comma-separated, of {', '.join(EXECUTORS)}"
    )
    parser.add_argument("--images", type=_positive, default=256, help="how many images of the shards")
    parser.add_argument("--batch-size", type=_positive, default=64)
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--threads", type=_positive, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the dali executor")
    parser.add_argument("--parity", action="store_true", help="compare with the first executor instead of timing")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write a contact sheet instead of timing")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    if arguments.parity and len(arguments.executor) < 2:
        parser.error("--parity compares executors: name two or more with --executor")
    return arguments


def _names(text: str) -> list[str]:
    return text.split(",")


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def main() -> None:
    """Console script `pipeline-bench`."""
    arguments = parse_arguments()
    run_command(lambda: run(arguments))


if __name__ == "__main__":
    main()
