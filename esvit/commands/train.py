"""esvit-train: pre-train EsViT from shards.

    esvit-train --config swin_tiny_w7 --set data.stream.shards=s3://bucket/imagenet/train
    torchrun --nproc-per-node 8 -m esvit.train --config ...

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75,
Ctrl-C saves and exits with 130.
"""

import argparse
import sys

from pipeline.command import add_json_flag, new_parser, not_empty, run_command
from pipeline.errors import UserError


def main() -> None:
    """Console script `esvit-train`."""
    run_command(_run)


def _run() -> int:
    arguments = _parse()
    from esvit.api import resolved  # the heavy imports begin here
    from pipeline.config import dump

    config = resolved(arguments.config, arguments.set)
    if arguments.print_config:
        sys.stdout.write(dump(config))
        return 0
    if arguments.check:
        from esvit.check import check

        return check(config, arguments.json)
    from esvit.training import train

    return train(config)


def _parse() -> argparse.Namespace:
    parser = new_parser("esvit-train", "Pre-train EsViT from shards.")
    parser.add_argument(
        "--config",
        type=not_empty,
        action="append",
        required=True,
        metavar="NAME|FILE",
        help="a preset or a YAML file; later ones win",
    )
    parser.add_argument(
        "--set", type=not_empty, action="append", default=[], metavar="KEY=VALUE", help="as data.num_threads=8"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--print-config", action="store_true", help="print all settings as YAML, and do no more")
    instead.add_argument(
        "--check",
        action="store_true",
        help="open data and networks, estimate memory and hours; train nothing",
    )
    add_json_flag(parser)
    arguments = parser.parse_args()
    if arguments.json and not arguments.check:
        raise UserError("--json is for --check; a run writes its log as log.jsonl")
    return arguments
