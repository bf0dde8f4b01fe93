"""Time, memory and arithmetic of a training step, variant by variant.

Variants take turns within each round, so other load on the machine slows all of them alike. Views are noise that is
already on the device. With a URL, views come from shards through the loader of training, and the wait for views is a
phase. Warm-up, memory and arithmetic are always measured on noise.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from esvit.bench.memory import peak_bytes
from esvit.bench.variants import PHASES, VARIANTS, Contestant, Settings
from esvit.bench.views import loaded, noise, open_stream
from esvit.models import BackboneConfig, build_backbone
from esvit.models.head import HeadConfig
from esvit.models.sizes import check_image_size
from pipeline.console.command import write_json
from pipeline.console.progress import counted
from pipeline.console.tables import print_table
from pipeline.errors import UserError


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all variants and summarise."""
    num_threads, batch_size, device = arguments.num_threads, arguments.batch_size, _device(arguments.device)
    torch.set_num_threads(num_threads)
    settings = Settings(
        _backbone(arguments.backbone), HeadConfig(num_prototypes=arguments.prototypes), device, arguments.precision
    )
    stream = open_stream(arguments.url, batch_size) if arguments.url else None
    backbone = build_backbone(settings.backbone, drop_path=False).to(device).eval()
    for count, side in arguments.views:
        check_image_size(backbone, side, device, f"--views {count}x{side}")
    del backbone  # its memory is not a step's
    ready = noise(arguments.views, batch_size, device)
    steps = {variant: VARIANTS[variant](settings) for variant in arguments.variant}
    flops = _flops(partial(VARIANTS["fused"](settings), ready))
    peaks = {}
    for variant, step in steps.items():
        step(ready)  # warm-up: optimiser state, masks
        step.optimizer.zero_grad()  # gradients belong to the step, not to what stays
        peaks[variant] = peak_bytes(partial(step, ready), device)
        step.forget_times()
    batches = loaded(stream, arguments.views, device, num_threads) if stream else contextlib.nullcontext(ready)
    with batches as views:
        for _ in counted(range(arguments.rounds), "measuring", arguments.rounds, "rounds"):
            for step in steps.values():
                step(views)
    ceiling = matmul_flops_per_second(device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32)
    rows = {variant: _row(step, batch_size, flops, ceiling) for variant, step in steps.items()}
    first = next(iter(rows))
    for variant, row in rows.items():
        row["peak_step_bytes"] = peaks[variant]
        row["peak_bytes"] = peaks[variant] + row["resident_bytes"]
        row["time_ratio"] = row["step_seconds"] / rows[first]["step_seconds"]
        row["memory_ratio"] = row["peak_bytes"] / rows[first]["peak_bytes"]
    options = {name: value for name, value in vars(arguments).items() if name != "json"} | {"device": device.type}
    return {**options, "model_flops": flops, "matmul_flops_per_second": ceiling, "variants": rows}


def _row(step: Contestant, batch_size: int, flops: int, ceiling: float) -> dict[str, Any]:
    seconds = statistics.median(step.seconds)
    return {
        "step_seconds": seconds,
        "images_per_second": batch_size / seconds,
        "mfu": flops / seconds / ceiling,
        "resident_bytes": step.resident_bytes,
        "phases": {phase: statistics.median(times) for phase, times in step.phases.items()},
    }


def _flops(step: Callable[[], None]) -> int:
    """FLOPs of the matrix products and convolutions of a step; recomputed ones do not count."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Peak rate of the device: the best of several products of square matrices."""
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
    """One column per variant."""
    rows = result["variants"]
    table = Table("", *rows, title=f"{result['backbone']}, batch {result['batch_size']}, {result['precision']}")
    for phase in PHASES:
        table.add_row(f"{phase} s", *(f"{row['phases'][phase]:.3f}" for row in rows.values()))
    for name in ("step_seconds", "images_per_second", "mfu", "time_ratio", "memory_ratio"):
        table.add_row(name, *(f"{row[name]:.3f}" for row in rows.values()))
    for name in ("peak_bytes", "peak_step_bytes"):
        table.add_row(name.replace("bytes", "MiB"), *(f"{row[name] / 2**20:.0f}" for row in rows.values()))
    print_table(table)


def run(arguments: argparse.Namespace) -> None:
    """Run esvit-bench with the flags of `esvit.commands.bench`.

    Raises:
        UserError: there is no such backbone or device, or a variant does not support the backbone.
    """
    result = measure(arguments)
    if arguments.json:
        write_json(result)
    else:
        print_rows(result)


def _backbone(name: str) -> BackboneConfig:
    try:
        return BackboneConfig(name=name)
    except ValidationError as error:
        raise UserError(f"--backbone {name}: {error.errors()[0]['ctx']['error']}") from None


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU on this machine; use --device cpu")
    return torch.device(name)
