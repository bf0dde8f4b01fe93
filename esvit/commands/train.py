"""esvit-train: pre-train EsViT from a folder of images, or from shards.

    esvit-train --images DIR --output RUN
    esvit-train --config swin_tiny_w7 --set data.stream.shards=s3://bucket/imagenet/train
    torchrun --nproc-per-node 8 -m esvit.train --config ...

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75,
Ctrl-C saves and exits with 130.
"""

import argparse
import json
import sys

from esvit.launcher import end_with_launcher
from esvit.training import presets
from pipeline.console.command import add_json_flag, new_parser, not_empty, run_command
from pipeline.errors import UserError


def main() -> None:
    """Console script `esvit-train`."""
    end_with_launcher()  # before the heavy imports, which take seconds
    run_command(_run)


def _run() -> int:
    arguments = _parse()
    from esvit.training.api import resolved, resolved_for_images  # the heavy imports begin here
    from pipeline.config import dump

    overrides = arguments.set
    if arguments.output is not None:
        overrides = [f"output={json.dumps(arguments.output)}", *overrides]
    if arguments.images is None:
        config = resolved(arguments.config, overrides)
    else:
        build = not arguments.print_config
        config = resolved_for_images(arguments.images, arguments.config, overrides, build=build)
    if arguments.print_config:
        sys.stdout.write(dump(config))
        return 0
    if arguments.check:
        from esvit.training.check import check

        return check(config, arguments.json)
    from esvit.training.loop import train

    return train(config)


def _parse() -> argparse.Namespace:
    parser = new_parser("esvit-train", "Pre-train EsViT from a folder of images, or from shards.")
    parser.epilog = f"presets: {', '.join(presets.names())}"
    parser.add_argument(
        "--images",
        type=not_empty,
        metavar="DIR",
        help="local folder of images, without labels; builds shards in the cache and chooses a preset",
    )
    parser.add_argument("--output", type=not_empty, metavar="RUN", help="folder of the run, same as --set output=RUN")
    parser.add_argument(
        "--config",
        type=not_empty,
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="a preset or a YAML file; later ones win",
    )
    parser.add_argument(
        "--set", type=not_empty, action="append", default=[], metavar="KEY=VALUE", help="as data.num_threads=8"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--print-config", action="store_true", help="print all settings as YAML, then exit")
    instead.add_argument(
        "--check",
        action="store_true",
        help="open the data, build the networks, estimate memory and hours; train nothing",
    )
    add_json_flag(parser)
    arguments = parser.parse_args()
    if not arguments.config and arguments.images is None:
        parser.error("give --images DIR, a folder of images, or --config, a preset or a YAML file")
    if arguments.json and not arguments.check:
        raise UserError("--json is for --check; a run writes its log to log.jsonl")
    return arguments
