"""pipeline-bench: measure the data pipeline on your own shards.

    pipeline-bench crops s3://bucket/in1k/train --executor original,cpu,dali      images per second of executors
    pipeline-bench stream s3://bucket/in1k/train                                  the stream against its upper bound
    pipeline-bench first shards/photos                                            the first epoch of a new process
    pipeline-bench shuffle s3://bucket/in1k/train                                 how well the order mixes
    pipeline-bench soak s3://bucket/in1k/train --seconds 900                      memory and open files over time
    pipeline-bench clients s3://bucket/in1k/train                                 speed of S3 clients

The module of a command is imported after its flags have been parsed.
"""

import argparse
import importlib
import re

from pipeline.console.command import (
    DEVICES,
    CommandParser,
    Commands,
    add_command,
    add_json_flag,
    new_parser,
    not_empty,
    num_at_once,
    num_bytes,
    path,
    positive,
    positive_number,
    quoted,
    run_command,
    seed,
    several_of,
    whole,
)
from pipeline.errors import UserError

# Copied from modules that take seconds to import; a test checks that they agree.
CONTESTANTS = ("reference", "cpu", "dali", "original", "dali-native", "floor-decode", "floor-resize")
RECIPES = ("dino", "linear", "deit", "eval")
DTYPES = ("float32", "float16", "uint8")


def main() -> None:
    """Console script `pipeline-bench`."""
    run_command(_run)


def _run() -> int | None:
    arguments = _parse()
    if getattr(arguments, "parity", False) and len(arguments.executor) < 2:
        raise UserError("--parity compares executors: name two or more with --executor")
    importlib.import_module(arguments.run).run(arguments)
    return None


def _parse() -> argparse.Namespace:
    parser = new_parser("pipeline-bench", "Measure the data pipeline on your own shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_crops(commands)
    _add_stream(commands)
    _add_first(commands)
    _add_shuffle(commands)
    _add_soak(commands)
    _add_clients(commands)
    return parser.parse_args()


def _add_crops(commands: Commands) -> None:
    command = _add(commands, "crops", "compare executors of the augmentation plan with each other and with rivals")
    command.add_argument(
        "--executor",
        type=several_of(CONTESTANTS),
        default="reference,cpu",
        metavar="NAME,...",
        help=f"any of {', '.join(CONTESTANTS)}; the others are compared with the first",
    )
    command.add_argument("--recipe", choices=RECIPES, default="dino", help="which views to make")
    command.add_argument("--images", type=positive, default=256, metavar="N", help="number of images to use")
    _add_batch_size(command, 64)
    _add_rounds(command)
    command.add_argument("--num-threads", type=num_at_once, default=2, metavar="N", help="threads of each executor")
    command.add_argument("--device", choices=DEVICES, default="auto", help="where the views go")
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the views")
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--parity", action="store_true", help="compare pixels with the first executor, not speeds")
    instead.add_argument("--sheet", type=path, metavar="FILE", help="draw the views of a few images, as PNG or JPEG")
    instead.add_argument("--plot", type=path, metavar="FILE.svg", help="also draw the speeds as a bar chart")


def _add_stream(commands: Commands) -> None:
    command = _add(commands, "stream", "measure the stream against its upper bound, with a cold and a warm cache")
    _add_batch_size(command, 64)
    _add_lanes(command)
    command.add_argument("--num-threads", type=num_at_once, default=4, metavar="N", help="downloads at once")
    _add_rounds(command)
    _add_own_cache(command)


def _add_first(commands: Commands) -> None:
    command = _add(commands, "first", "measure the first epoch of a new process from the local disk, beside LitData")
    _add_batch_size(command, 64)
    command.add_argument("--num-threads", type=num_at_once, default=2, metavar="N", help="threads of the stream")
    _add_rounds(command)
    command.add_argument(
        "--temporary-dir", type=path, metavar="DIR", help="where LitData's copy is written (default: $TMPDIR)"
    )


def _add_shuffle(commands: Commands) -> None:
    command = _add(commands, "shuffle", "measure how well the order mixes, compared with a full permutation")
    command.add_argument(
        "--batch-size", type=whole(2), default=256, metavar="N", help="images per step, over all ranks"
    )
    command.add_argument(
        "--order", type=_orders, default=[], metavar="LANESxBLOCK,...", help="other orders to measure, as 8x16,4x4"
    )
    command.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the order and of the permutations")


def _add_soak(commands: Commands) -> None:
    command = _add(commands, "soak", "stream for a long time and watch memory and open files")
    command.add_argument("--seconds", type=positive_number, default=900, metavar="N", help="how long to stream")
    command.add_argument(
        "--cache-bytes",
        type=num_bytes,
        default="1MB",
        metavar="SIZE",
        help="size of the cache; a small cache evicts all the time",
    )
    _add_batch_size(command, 64)
    _add_lanes(command)
    command.add_argument("--num-threads", type=num_at_once, default=4, metavar="N", help="downloads at once")
    _add_own_cache(command)


def _add_clients(commands: Commands) -> None:
    command = _add(commands, "clients", "compare the clients of S3 that are installed")
    command.add_argument("--num-threads", type=num_at_once, default=4, metavar="N", help="downloads at once")
    _add_rounds(command)


def _add(commands: Commands, name: str, summary: str) -> CommandParser:
    command = add_command(commands, name, summary, f"pipeline.bench.{name}")
    command.add_argument("url", type=not_empty, metavar="URL", help="the shards: a folder or s3://BUCKET/PREFIX")
    add_json_flag(command)
    return command


def _add_batch_size(command: CommandParser, default: int) -> None:
    command.add_argument("--batch-size", type=positive, default=default, metavar="N", help="images per step")


def _add_rounds(command: CommandParser) -> None:
    command.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="number of measurements; the median is reported"
    )


def _add_lanes(command: CommandParser) -> None:
    command.add_argument(
        "--lanes", type=positive, default=8, metavar="N", help="lanes of the order; a divisor of the batch size"
    )


def _add_own_cache(command: CommandParser) -> None:
    command.add_argument(
        "--cache-dir", type=path, metavar="DIR", help="where the shards are kept (default: a temporary folder)"
    )


def _orders(text: str) -> list[tuple[int, int]]:
    """Parse `8x16,4x4` to pairs of lanes and block_shards."""
    if not re.fullmatch("[0-9]{1,9}x[0-9]{1,9}(,[0-9]{1,9}x[0-9]{1,9})*", text):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not of the form LANESxBLOCK,...; write for example 8x16,4x4"
        )
    lanes, blocks = zip(*(pair.split("x") for pair in text.split(",")), strict=True)
    return list(zip(map(positive, lanes), map(positive, blocks), strict=True))
