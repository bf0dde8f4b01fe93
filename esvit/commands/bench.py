"""esvit-bench: time, memory and arithmetic of a training step, variant by variant.

    esvit-bench --backbone swin_tiny --batch-size 2 --variant direct,fused --json
    esvit-bench --backbone swin_tiny --data s3://bucket/imagenet/train      # and the wait for views from shards

The variants: `fused` is the step of esvit-train; `recompute` the same with blocks computed again in the backward;
`compiled` the same with compiled backbones; `direct` a plain composition of the same step, for Swin only.
"""

import argparse
import os

from pipeline.command import new_parser, positive, run_command, several_of

VARIANTS = ("direct", "fused", "recompute", "compiled")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = new_parser("esvit-bench", "Time, memory and arithmetic of a training step, by phase and variant.")
    parser.add_argument("--backbone", default="swin_tiny", help="as model.backbone.name")
    parser.add_argument("--batch-size", type=positive, default=2, help="images per step")
    parser.add_argument("--views", type=_views, default="2x224,8x96", metavar="NxSIDE,...", help="crops per image")
    parser.add_argument("--data", metavar="URL", help="shards that the views come from; without it views are noise")
    parser.add_argument("--prototypes", type=_prototypes, default=65536, help="of each head")
    parser.add_argument(
        "--variant",
        type=several_of(VARIANTS),
        default="direct,fused",
        metavar="NAME,...",
        help=f"of {', '.join(VARIANTS)}; the others are compared with the first",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--num-threads", type=positive, default=os.cpu_count(), help="of torch, and of the loader")
    parser.add_argument("--rounds", type=positive, default=5, help="steps of each variant that are timed")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def _prototypes(text: str) -> int:
    if (number := positive(text)) < 2:
        raise argparse.ArgumentTypeError("a head needs at least 2 prototypes")
    return number


def _views(text: str) -> list[tuple[int, int]]:
    """`2x224,8x96` as counts and sides."""
    try:
        views = [(positive(count), positive(side)) for count, side in (group.split("x") for group in text.split(","))]
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form 2x224,8x96, with whole numbers from 1 on"
        ) from None
    if sum(count for count, _ in views) < 2:
        raise argparse.ArgumentTypeError("the loss compares views: at least two crops are needed")
    return views


def run(arguments: argparse.Namespace) -> int:
    """Measure; the heavy imports begin here."""
    from esvit.bench import step

    step.run(arguments)
    return 0


def main() -> None:
    """Console script `esvit-bench`."""
    arguments = parse_arguments()
    run_command(lambda: run(arguments))
