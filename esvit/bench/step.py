"""esvit-bench: time, memory and arithmetic of a training step, variant by variant.

    esvit-bench --backbone swin_tiny --batch 2 --variant direct,fused --json

Variants take turns within each round, so that whatever else the machine does meets all of them. Views are noise and
already on the device; with --data they come from shards through the loader of training, and the wait for them is a
phase. Warm-up, memory and arithmetic are those of noise in either case.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from esvit.bench.memory import peak_bytes
from esvit.bench.variants import PHASES, VARIANTS, Settings, Step
from esvit.bench.views import Views, loaded, noise
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from pipeline.command import run_command
from pipeline.errors import UserError


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all variants and sum up."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    settings = Settings(
        backbone=BackboneConfig(name=arguments.backbone),
        head=HeadConfig(num_prototypes=arguments.prototypes),
        device=device,
        half=arguments.precision == "bf16",
    )
    ready = noise(arguments.views, arguments.batch, device)
    steps = {variant: VARIANTS[variant](settings) for variant in arguments.variant}
    flops = _flops(partial(VARIANTS["fused"](settings), ready))
    peaks = {}
    for variant, step in steps.items():
        step(ready)  # warm-up: optimiser state, masks
        peaks[variant] = peak_bytes(partial(step, ready), device)
        for times in step.seconds.values():
            times.clear()
    with _batches(arguments, ready) as batches:
        for _ in range(arguments.rounds):
            for step in steps.values():
                step(batches)
    ceiling = matmul_flops_per_second(device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32)
    rows = {variant: _row(step, arguments.batch, flops, ceiling) for variant, step in steps.items()}
    first = next(iter(rows))
    for variant, row in rows.items():
        row["peak_step_bytes"] = peaks[variant]
        row["peak_bytes"] = peaks[variant] + row["resident_bytes"]
        row["time_ratio"] = row["step_seconds"] / rows[first]["step_seconds"]
        row["memory_ratio"] = row["peak_bytes"] / rows[first]["peak_bytes"]
    options = {name: value for name, value in vars(arguments).items() if name != "json"}
    return {**options, "model_flops": flops, "matmul_flops_per_second": ceiling, "variants": rows}


def _batches(
    arguments: argparse.Namespace, ready: Iterator[Views]
) -> contextlib.AbstractContextManager[Iterator[Views]]:
    if not arguments.data:
        return contextlib.nullcontext(ready)
    return loaded(arguments.data, arguments.views, arguments.batch, torch.device(arguments.device), arguments.threads)


def _row(step: Step, batch: int, flops: int, ceiling: float) -> dict[str, Any]:
    phases = {phase: statistics.median(times) for phase, times in step.seconds.items()}
    seconds = statistics.median(map(sum, zip(*step.seconds.values(), strict=True)))
    return {
        "step_seconds": seconds,
        "images_per_second": batch / seconds,
        "mfu": flops / seconds / ceiling,
        "resident_bytes": step.resident_bytes,
        "phases": phases,
    }


def _flops(step: Callable[[], None]) -> int:
    """Of the matrix products and convolutions that the step needs, without those that a variant repeats."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """The best of several products of square matrices: what the device can do at most."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def print_rows(result: dict[str, Any]) -> None:
    """A column a variant."""
    rows = result["variants"]
    table = Table("", *rows, title=f"{result['backbone']}, batch {result['batch']}, {result['precision']}")
    for phase in PHASES:
        table.add_row(f"{phase} s", *(f"{row['phases'][phase]:.3f}" for row in rows.values()))
    for name in ("step_seconds", "images_per_second", "mfu", "time_ratio", "memory_ratio"):
        table.add_row(name, *(f"{row[name]:.3f}" for row in rows.values()))
    for name in ("peak_bytes", "peak_step_bytes"):
        table.add_row(name.replace("bytes", "MiB"), *(f"{row[name] / 2**20:.0f}" for row in rows.values()))
    Console().print(table)


def _parse_views(text: str) -> list[tuple[int, int]]:
    """`2x224,8x96` as counts and sides."""
    try:
        views = [(int(count), int(side)) for count, side in (group.split("x") for group in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 2x224,8x96") from None
    if min(number for view in views for number in view) < 1 or sum(count for count, _ in views) < 2:
        raise argparse.ArgumentTypeError("views need at least two crops, of positive size")
    return views


def _parse_variants(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"no variant '{unknown[0]}'; choose from {', '.join(VARIANTS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time, memory and arithmetic of a training step.")
    parser.add_argument("--backbone", default="swin_tiny", help="as model.backbone.name")
    parser.add_argument("--batch", type=_positive, default=2, help="images a step")
    parser.add_argument("--views", type=_parse_views, default=_parse_views("2x224,8x96"), metavar="NxSIDE,...")
    parser.add_argument("--data", metavar="URL", help="shards that the views come from; without, views are noise")
    parser.add_argument("--prototypes", type=_positive, default=65536)
    parser.add_argument(
        "--variant",
        type=_parse_variants,
        default=_parse_variants("direct,fused"),
        metavar="NAME,...",
        help=f"of {', '.join(VARIANTS)}; the first is what the others are compared with",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=_positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """The command."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU on this machine; use --device cpu")
    result = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        print_rows(result)


def main() -> None:
    """Console script `esvit-bench`."""
    run_command(lambda: run(parse_arguments()))


if __name__ == "__main__":
    main()
