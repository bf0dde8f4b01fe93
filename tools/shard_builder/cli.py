"""The console script `shard-builder`. Each command registers itself with the parser."""

import argparse

from pipeline.console.command import new_parser, run_command
from tools.shard_builder.commands.bench import add_bench_command
from tools.shard_builder.commands.build import add_build_command, add_finalize_command
from tools.shard_builder.commands.copy import add_copy_command
from tools.shard_builder.commands.datasets import add_datasets_command
from tools.shard_builder.commands.diff import add_diff_command
from tools.shard_builder.commands.plan import add_plan_command
from tools.shard_builder.commands.show import add_show_command
from tools.shard_builder.commands.stats import add_stats_command
from tools.shard_builder.commands.upgrade import add_upgrade_command
from tools.shard_builder.commands.verify import add_verify_command


def main() -> None:
    """Entry point: parse the arguments, run the command, exit with its status."""
    run_command(_run)


def _run() -> int | None:
    args = _parse()
    status: int | None = args.run(args)
    return status


def _parse() -> argparse.Namespace:
    parser = new_parser("shard-builder", "Build, verify and describe tar shards for training.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_datasets_command(commands)
    add_plan_command(commands)
    add_build_command(commands)
    add_finalize_command(commands)
    add_verify_command(commands)
    add_stats_command(commands)
    add_show_command(commands)
    add_diff_command(commands)
    add_copy_command(commands)
    add_upgrade_command(commands)
    add_bench_command(commands)
    return parser.parse_args()
