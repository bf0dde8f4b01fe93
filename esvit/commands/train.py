"""esvit-train: pre-train EsViT from shards.

    esvit-train --config configs/train/swin_tiny_w7.yaml --set data.stream.shards=s3://bucket/imagenet/train
    torchrun --nproc-per-node 8 -m esvit.train --config ...

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75.
"""

import argparse

from pipeline import config as configuration
from pipeline.command import new_parser, run_command


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = new_parser("esvit-train", "Pre-train EsViT from shards.")
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="YAML; later files win")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as data.num_threads=8")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Train; the heavy imports begin here."""
    from esvit.training import TrainConfig, train

    return train(configuration.load(TrainConfig, arguments.config, arguments.set))


def main() -> None:
    """Console script `esvit-train`."""
    arguments = parse_arguments()
    run_command(lambda: run(arguments))
