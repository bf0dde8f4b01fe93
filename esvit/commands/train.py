"""esvit-train: pre-train EsViT from shards.

    esvit-train --config swin_tiny_w7 --set data.stream.shards=s3://bucket/imagenet/train
    torchrun --nproc-per-node 8 -m esvit.train --config ...

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75,
Ctrl-C saves and exits with 130.
"""

import argparse
import sys

from pipeline.command import new_parser, run_command


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = new_parser("esvit-train", "Pre-train EsViT from shards.")
    parser.add_argument(
        "--config", action="append", required=True, metavar="NAME|FILE", help="a preset or a YAML file; later ones win"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as data.num_threads=8")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--print-config", action="store_true", help="print all settings as YAML, and do no more")
    instead.add_argument(
        "--check",
        action="store_true",
        help="open data and networks, estimate memory and hours; train nothing",
    )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Train; the heavy imports begin here."""
    from esvit.api import resolved
    from pipeline.config import dump

    config = resolved(arguments.config, arguments.set)
    if arguments.print_config:
        sys.stdout.write(dump(config))
        return 0
    if arguments.check:
        from esvit.check import check

        return check(config)
    from esvit.training import train

    return train(config)


def main() -> None:
    """Console script `esvit-train`."""
    arguments = parse_arguments()
    run_command(lambda: run(arguments))
