"""esvit-eval: measure what a checkpoint has learned, and hand it on.

esvit-eval knn --checkpoint runs/swin_tiny/checkpoints --train s3://bucket/in1k/train --test s3://bucket/in1k/val
torchrun --nproc-per-node 8 -m esvit.evaluate knn ...                                # the samples divided among ranks
esvit-eval export --checkpoint runs/swin_tiny/checkpoints --dest swin_tiny   # timm.create_model("local-dir:swin_tiny")
"""

import argparse
import os

from pipeline.command import new_parser, run_command


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = new_parser("esvit-eval", "Evaluate an EsViT checkpoint.")
    protocols = parser.add_subparsers(dest="protocol", required=True)
    knn_parser = protocols.add_parser("knn", help="k-nearest-neighbour classification of frozen features")
    knn_parser.set_defaults(run="knn")
    knn_parser.add_argument("--checkpoint", required=True, help="file, or folder whose newest is taken")
    knn_parser.add_argument("--train", required=True, metavar="URL", help="shards of the training set")
    knn_parser.add_argument("--test", required=True, metavar="URL", help="shards of the test set")
    knn_parser.add_argument("--network", choices=("teacher", "student"), default="teacher")
    knn_parser.add_argument("--size", type=int, default=224, help="side of the centre crop, pixels")
    knn_parser.add_argument("--resize", type=int, help="shorter side before the crop; default size * 256 / 224")
    knn_parser.add_argument("--batch-size", type=int, default=256, help="images of each rank at a time")
    knn_parser.add_argument("--executor", default="cpu")
    knn_parser.add_argument("--num-threads", type=int, default=os.cpu_count())
    knn_parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    knn_parser.add_argument("--cache-dir", default="~/.cache/esvit-streaming")
    knn_parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    export_parser = protocols.add_parser("export", help="the backbone for timm: safetensors and config.json")
    export_parser.set_defaults(run="export_backbone")
    export_parser.add_argument("--checkpoint", required=True, help="file, or folder whose newest is taken")
    export_parser.add_argument("--dest", required=True, metavar="URL", help="folder to write into")
    export_parser.add_argument("--network", choices=("teacher", "student"), default="teacher")
    for subparser in (knn_parser, export_parser):
        subparser.add_argument(
            "--allow-import",
            action="append",
            default=[],
            metavar="MODULE",
            help="module or package from which the checkpoint may name a class of your own",
        )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; the heavy imports begin here."""
    from esvit import evaluation

    status: int = getattr(evaluation, arguments.run)(arguments)
    return status


def main() -> None:
    """Console script `esvit-eval`."""
    arguments = parse_arguments()
    run_command(lambda: run(arguments))
