"""A dry run: what a build would write, and what training on it would need. The command `shard-builder plan`.

The needs are computed from the trainer's own sample order, for one epoch: which shards each node reads, and from which
step to which step.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pipeline.console.command import Commands, add_command, add_json_flag, positive, write_json
from pipeline.console.lines import write_note
from pipeline.console.tables import print_table
from pipeline.errors import UserError
from pipeline.order import OrderConfig, SampleOrder, rank_slice
from tools.shard_builder.build.plan import Plan, ShardPlan
from tools.shard_builder.build.run import BuildOptions, plan_build
from tools.shard_builder.commands.arguments import add_plan_arguments, plan_options

_ORDER = OrderConfig()
_MAX_STEPS = 20_000  # at most so many steps of an epoch are looked at, evenly spaced


class DryRunError(UserError):
    """The numbers of the run do not fit each other."""


class Run(NamedTuple):
    """The training run to forecast."""

    world_size: int
    ranks_per_node: int
    global_batch: int
    images_per_s: float
    """Of all ranks together."""
    order: OrderConfig = _ORDER


def add_plan_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "plan", "dry run: shards and bytes of a build, cache and rates of training", _plan)
    add_plan_arguments(command)
    add_json_flag(command)
    run = command.add_argument_group("the training run to forecast")
    run.add_argument("--world-size", type=positive, default=8, metavar="N", help="number of ranks")
    run.add_argument(
        "--ranks-per-node", type=positive, default=8, metavar="N", help="ranks per node; they share a cache"
    )
    run.add_argument("--global-batch", type=positive, default=512, metavar="N", help="images per step, over all ranks")
    run.add_argument("--images-per-s", type=positive, default=2000, metavar="N", help="speed of all ranks together")
    run.add_argument(
        "--lanes", type=positive, default=_ORDER.lanes, metavar="N", help="data.stream.order.lanes of the run"
    )
    run.add_argument(
        "--block-shards",
        type=positive,
        default=_ORDER.block_shards,
        metavar="N",
        help="data.stream.order.block_shards of the run",
    )


def _plan(args: argparse.Namespace) -> None:
    plan = plan_build(BuildOptions(**plan_options(args), dest=""))
    for note in plan.notes:
        write_note(f"note: {note}")
    order = OrderConfig(lanes=args.lanes, block_shards=args.block_shards)
    run = Run(args.world_size, args.ranks_per_node, args.global_batch, args.images_per_s, order)
    forecast = describe(plan) | foresee(plan.shards, run)
    write_json(forecast) if args.json else print_table(_table(forecast))


def describe(plan: Plan) -> dict[str, Any]:
    """What the build would write."""
    sizes = [shard.num_bytes for shard in plan.shards]
    return {
        "images": plan.num_images,
        "classes": len(plan.classes),
        "shards": len(sizes),
        "bytes": sum(sizes),
        "largest_shard_bytes": max(sizes),
        "plan_digest": plan.digest,
        "left_out": plan.left_out,
        "notes": plan.notes,
    }


def foresee(shards: Sequence[ShardPlan], run: Run) -> dict[str, Any]:
    """What one epoch of `run` needs from the store and from the disk of each node.

    Raises:
        UserError: batch, lanes, ranks and nodes do not divide evenly, or there are too few images.
    """
    if run.world_size % run.ranks_per_node and run.world_size > run.ranks_per_node:
        raise DryRunError(f"{run.world_size} ranks do not fill nodes of {run.ranks_per_node}; change --ranks-per-node")
    rank_slice(run.global_batch, 0, run.world_size)  # the ranks divide the batch
    num_nodes = -(-run.world_size // run.ranks_per_node)
    sizes = np.array([shard.num_bytes for shard in shards])
    num_images = [len(shard.records) for shard in shards]
    order = SampleOrder(num_images, 0, run.global_batch, run.order)
    first, last = _uses(order, num_images, num_nodes)
    used = last >= 0
    read_bytes = int((used * sizes).sum())
    seconds = order.num_steps * run.global_batch / run.images_per_s
    return {
        "steps_per_epoch": order.num_steps,
        "epoch_seconds": round(seconds, 1),
        "nodes": num_nodes,
        "shard_reads_per_epoch": int(used.sum()),
        "store_bytes_per_epoch": read_bytes,
        "store_mb_per_s": round(read_bytes / seconds / 1e6, 1),
        "store_shards_per_minute": round(int(used.sum()) / seconds * 60, 2),
        "cache_max_bytes": max(_most_at_once(first[node], last[node], sizes) for node in range(num_nodes)),
    }


def _uses(order: SampleOrder, num_images: Sequence[int], num_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last step at which each node needs each shard, int64 [nodes, shards]; -1: never."""
    first = np.full((num_nodes, len(num_images)), -1)
    last = first.copy()
    starts = np.concatenate([[0], np.cumsum(num_images)])
    steps = np.unique(np.linspace(0, order.num_steps - 1, min(order.num_steps, _MAX_STEPS)).astype(int))
    for step in steps.tolist():
        shards = np.searchsorted(starts, order.batch(0, step), side="right") - 1
        for node in range(num_nodes):
            mine = np.unique(shards[rank_slice(order.global_batch, node, num_nodes)])
            last[node, mine] = step
            first[node, mine[first[node, mine] < 0]] = step
    return first, last


def _most_at_once(first: NDArray[np.int64], last: NDArray[np.int64], sizes: NDArray[np.int64]) -> int:
    """Most bytes of shards in use at one step (between first and last use): with this cache no shard is read twice."""
    used = last >= 0
    change = np.zeros(int(last.max()) + 2, dtype=np.int64)
    np.add.at(change, first[used], sizes[used])
    np.add.at(change, last[used] + 1, -sizes[used])
    return int(np.cumsum(change).max())


def _table(forecast: dict[str, Any]) -> Table:
    table = Table("quantity", "value")
    for name, value in forecast.items():
        if name == "notes":  # printed before
            continue
        text = f"{value:,}" if isinstance(value, int | float) else str(value or "nothing")
        is_large = name.endswith("bytes") or "bytes_per" in name
        table.add_row(name.replace("_", " "), f"{text} ({value / 1e9:,.2f} GB)" if is_large else text)
    return table
