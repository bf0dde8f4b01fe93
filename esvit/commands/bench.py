"""esvit-bench: time, memory and arithmetic of a training step, variant by variant.

    esvit-bench --backbone swin_tiny --batch-size 2 --variant direct,fused --json
    esvit-bench s3://bucket/imagenet/train --backbone swin_tiny             # measures the wait for shards too

The variants: `fused` is the step of esvit-train; `recompute` the same with blocks recomputed in the backward;
`compiled` the same with compiled backbones; `direct` a plain composition of the same step, for Swin only.
"""

import argparse
import os

from pipeline.console.command import (
    DEVICES,
    add_json_flag,
    new_parser,
    not_empty,
    num_at_once,
    pixels,
    positive,
    quoted,
    run_command,
    several_of,
    whole,
)

VARIANTS = ("direct", "fused", "recompute", "compiled")


def main() -> None:
    """Console script `esvit-bench`."""
    run_command(_run)


def _run() -> None:
    arguments = _parse()
    from esvit.bench import step  # the heavy imports begin here

    step.run(arguments)


def _parse() -> argparse.Namespace:
    parser = new_parser("esvit-bench", "Time, memory and arithmetic of a training step, by phase and variant.")
    parser.add_argument(
        "url",
        nargs="?",
        type=not_empty,
        metavar="URL",
        help="shards to render views from (default: views are noise)",
    )
    parser.add_argument(
        "--backbone", type=not_empty, default="swin_tiny", metavar="NAME", help="as model.backbone.name"
    )
    parser.add_argument("--batch-size", type=positive, default=2, metavar="N", help="images per step")
    parser.add_argument("--views", type=_views, default="2x224,8x96", metavar="NxSIDE,...", help="crops per image")
    parser.add_argument("--prototypes", type=whole(2), default=65536, metavar="N", help="prototypes per head")
    parser.add_argument(
        "--variant",
        type=several_of(VARIANTS),
        default="direct,fused",
        metavar="NAME,...",
        help=f"of {', '.join(VARIANTS)}; the first is the baseline",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the networks")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device of the networks")
    parser.add_argument(
        "--num-threads",
        type=num_at_once,
        metavar="N",
        help="threads of torch, and of the loader (default: one per core)",
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="timed steps per variant")
    add_json_flag(parser)
    arguments = parser.parse_args()
    arguments.num_threads = arguments.num_threads or os.cpu_count() or 1
    return arguments


def _views(text: str) -> list[tuple[int, int]]:
    """`2x224,8x96` as counts and sides."""
    try:
        views = [(positive(count), pixels(side)) for count, side in (group.split("x") for group in text.split(","))]
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not of the form 2x224,8x96, with whole numbers from 1 on"
        ) from None
    if sum(count for count, _ in views) < 2:
        raise argparse.ArgumentTypeError("the loss compares views; give at least two crops")
    return views
