"""Compare executors and their rivals on the same images: speed in interleaved rounds, pixel differences, pictures.

pipeline-bench crops shards/imagenet --executor original,cpu,dali,floor-resize     images per second, and ratios
pipeline-bench crops shards/imagenet --parity                differences to the reference, per operation
pipeline-bench crops shards/imagenet --sheet views.png       a picture of all views of a few images

With --device cuda every contestant's views end on the GPU.
"""

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from pipeline.augment import RECIPES, build_planner
from pipeline.augment.parity import Parity
from pipeline.bench.contestants import Conditions, Contestant, ExecutorContestant, build_contestant
from pipeline.bench.memory import peak_memory
from pipeline.bench.report import Rows, print_table, write_chart
from pipeline.bench.sheet import SheetRow, contact_sheet
from pipeline.console.command import write_json
from pipeline.console.lines import write_line
from pipeline.console.progress import counted
from pipeline.errors import UserError
from pipeline.order import SequentialOrder
from pipeline.shards.data_sets import open_data_set
from pipeline.stream import SampleStream, StreamConfig

_SHEET_IMAGES = 6


class Bench:
    """Encoded batches in memory, and the contestants to compare on them."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        data_set = open_data_set(arguments.url)
        num_samples = data_set.manifest.num_samples
        order = SequentialOrder(num_samples, min(arguments.batch_size, num_samples))
        num_images = min(arguments.images, num_samples)
        stream = SampleStream([data_set], order, StreamConfig(shards=arguments.url))
        self._batches = list(islice(stream, -(-num_images // order.global_batch)))
        recipe = RECIPES[arguments.recipe]
        self._planner = build_planner(recipe, seed=0)
        self._on_gpu = device.type == "cuda"
        given = Conditions(arguments.num_threads, device, arguments.dtype, recipe, self._planner, stream.neighbour)
        self._contestants = {name: build_contestant(name, given) for name in arguments.executor}

    def speed(self, rounds: int) -> Rows:
        """Images per second of each contestant: the median over `rounds`. In each round the contestants take turns.

        With a GPU, also the share of the time that is spent on copying views from the CPU to the GPU.
        """
        seconds: dict[str, list[float]] = {name: [] for name in self._contestants}
        # Warm-up: threads, processes, graphs, tables.
        warm_up = {name: self._time(contestant) for name, contestant in self._contestants.items()}
        for _ in counted(range(rounds), "measuring", rounds, "rounds"):
            for name, contestant in self._contestants.items():
                seconds[name].append(self._time(contestant))
        num_images = sum(len(batch.ids) for batch in self._batches)
        speeds = {name: num_images / statistics.median(times) for name, times in seconds.items()}
        first = next(iter(speeds.values()))
        rows: Rows = {name: {"images_per_second": speed, "ratio": speed / first} for name, speed in speeds.items()}
        if self._on_gpu:
            for name, contestant in self._contestants.items():
                spent = contestant.transfer_s if isinstance(contestant, ExecutorContestant) else 0.0
                rows[name]["host_to_device_share"] = spent / (sum(seconds[name]) + warm_up[name])
        return rows

    def _time(self, contestant: Contestant) -> float:
        begin = time.perf_counter()
        contestant.run(self._batches)
        return time.perf_counter() - begin

    def parity(self) -> Rows:
        """Differences of each executor to the first."""
        first, *others = self._executors()
        executors = self._executors()
        found = {name: Parity() for name in others}
        for batch in self._batches:
            expected = executors[first].views(batch)
            plan = self._planner(batch.passes, batch.ids, batch.heights, batch.widths)
            for name in others:
                found[name].add(expected, executors[name].views(batch), plan)
        return {name: parity.summary() for name, parity in found.items()}

    def sheet(self) -> Image.Image:
        """A row per image and executor, a column per view."""
        made = {name: executor.rendered(self._batches[0]) for name, executor in self._executors().items()}
        rows = [
            SheetRow(name, batch.images[b], int(batch.ids[b]), [group[:, b] for group in groups])
            for b in range(min(_SHEET_IMAGES, len(self._batches[0].ids)))
            for name, (groups, batch) in made.items()
        ]
        return contact_sheet(rows)

    def close(self) -> None:
        """Release the contestants."""
        for contestant in self._contestants.values():
            contestant.close()

    def _executors(self) -> dict[str, ExecutorContestant]:
        """The contestants as executors of the plan, which can be compared view by view."""
        rivals = [name for name, one in self._contestants.items() if not isinstance(one, ExecutorContestant)]
        if rivals:
            raise UserError(f"{rivals[0]} does not render the plan, so it can be timed but not compared by pixel")
        return {name: one for name, one in self._contestants.items() if isinstance(one, ExecutorContestant)}


def _write(sheet: Image.Image, path: Path) -> None:
    try:
        sheet.save(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except ValueError:  # the suffix is no image format
        raise UserError(f"cannot write {path}: name it .png, .jpg or .webp") from None


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    device = _device(arguments.device)
    given = {name: getattr(arguments, name) for name in ("url", "recipe", "num_threads", "dtype")}
    conditions = {**given, "device": device.type}
    with peak_memory() as memory:
        bench = Bench(arguments, device)
        try:
            if arguments.sheet:
                _write(bench.sheet(), arguments.sheet)
            else:
                rows = bench.parity() if arguments.parity else bench.speed(arguments.rounds)
        finally:
            bench.close()
    title = "differences in 1/255" if arguments.parity else f"views of recipe {arguments.recipe}"
    if arguments.sheet:
        if arguments.json:
            write_json({**conditions, "sheet": str(arguments.sheet)})
        else:
            write_line(f"wrote {arguments.sheet}")
    elif arguments.json:
        write_json({**conditions, "peak_memory_mb": round(memory.num_bytes / 1e6), title: rows})
    else:
        print_table(f"{title}; peak memory {memory.num_bytes / 1e6:,.0f} MB", rows)
    if arguments.plot:
        speeds = {name: float(str(row["images_per_second"])) for name, row in rows.items()}
        write_chart(f"images/s, recipe {arguments.recipe}, {arguments.num_threads} threads", speeds, arguments.plot)


def _device(name: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UserError("there is no GPU on this machine; use --device cpu")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
