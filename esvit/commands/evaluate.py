"""esvit-eval: evaluate a checkpoint, or export its backbone.

esvit-eval knn --checkpoint runs/swin_tiny/checkpoints --train s3://bucket/in1k/train --test s3://bucket/in1k/val
torchrun --nproc-per-node 8 -m esvit.evaluate knn ...                                # the samples divided among ranks
esvit-eval export --checkpoint runs/swin_tiny/checkpoints --dest swin_tiny   # timm.create_model("local-dir:swin_tiny")
"""

import argparse
import os

from esvit.launcher import end_with_launcher
from pipeline.console.command import (
    CACHE_DIR,
    DEVICES,
    Commands,
    add_command,
    add_json_flag,
    new_parser,
    not_empty,
    num_at_once,
    pixels,
    positive,
    positive_number,
    run_command,
)
from pipeline.errors import UserError

# Copied from modules that take seconds to import; a test compares them.
EXECUTORS = ("reference", "cpu", "dali")
NEIGHBOURS = (10, 20, 100, 200)


def main() -> None:
    """Console script `esvit-eval`."""
    end_with_launcher()  # before the heavy imports, which take seconds
    run_command(_run)


def _run() -> int:
    arguments = _parse()
    from esvit import evaluation  # the heavy imports begin here

    status: int = getattr(evaluation, arguments.run)(arguments)
    return status


def _parse() -> argparse.Namespace:
    parser = new_parser("esvit-eval", "Evaluate a checkpoint, or export its backbone.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_knn(commands)
    _add_export(commands)
    arguments = parser.parse_args()
    if arguments.run == "knn":
        arguments.num_threads = arguments.num_threads or os.cpu_count() or 1
        arguments.resize = arguments.resize or round(arguments.size * 256 / 224)
        if arguments.resize < arguments.size:
            raise UserError(
                f"--resize {arguments.resize} leaves no room for a crop of --size {arguments.size}; "
                "choose at least the value of --size"
            )
    return arguments


def _add_knn(commands: Commands) -> None:
    command = add_command(commands, "knn", "k-nearest-neighbour classification of frozen features", "knn")
    _add_checkpoint_flags(command)
    command.add_argument("--train", type=not_empty, required=True, metavar="URL", help="shards of the training set")
    command.add_argument("--test", type=not_empty, required=True, metavar="URL", help="shards of the test set")
    command.add_argument(
        "--neighbours", type=_counts, default=NEIGHBOURS, metavar="N,N", help="how many vote (default: 10,20,100,200)"
    )
    command.add_argument(
        "--temperature", type=positive_number, default=0.07, metavar="T", help="a vote weighs exp(cosine / T)"
    )
    command.add_argument("--size", type=pixels, default=224, metavar="N", help="side of the centre crop, pixels")
    command.add_argument(
        "--resize", type=pixels, metavar="N", help="shorter side before the crop (default: size * 256 / 224)"
    )
    command.add_argument("--batch-size", type=positive, default=256, metavar="N", help="images per rank and batch")
    command.add_argument("--executor", choices=EXECUTORS, default="cpu", help="executor that renders the crops")
    command.add_argument(
        "--num-threads", type=num_at_once, metavar="N", help="threads of the executor (default: one per core)"
    )
    command.add_argument(
        "--device", choices=DEVICES, default="auto", help="device of the network; auto: a GPU if there is one"
    )
    command.add_argument(
        "--cache-dir", type=not_empty, default=CACHE_DIR, metavar="DIR", help="folder for copies of remote shards"
    )
    add_json_flag(command)


def _counts(text: str) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between them, each once."""
    return tuple(dict.fromkeys(positive(word.strip()) for word in text.split(",")))


def _add_export(commands: Commands) -> None:
    command = add_command(
        commands, "export", "write the backbone for timm: safetensors and config.json", "export_backbone"
    )
    _add_checkpoint_flags(command)
    command.add_argument("--dest", type=not_empty, required=True, metavar="URL", help="folder to write into")
    add_json_flag(command)


def _add_checkpoint_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        type=not_empty,
        required=True,
        metavar="URL",
        help="checkpoint file, or a folder: its newest checkpoint",
    )
    command.add_argument("--network", choices=("teacher", "student"), default="teacher", help="network to use")
    command.add_argument(
        "--allow-import",
        type=not_empty,
        action="append",
        default=[],
        metavar="MODULE",
        help="module or package of your own from which the checkpoint may import classes",
    )
