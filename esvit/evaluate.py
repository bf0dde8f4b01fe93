"""esvit-eval: measure what a checkpoint has learned, and hand it on.

esvit-eval knn --checkpoint runs/swin_tiny/checkpoints --train s3://bucket/in1k/train --test s3://bucket/in1k/val
torchrun --nproc-per-node 8 -m esvit.evaluate knn ...                                # the samples divided among ranks
esvit-eval export --checkpoint runs/swin_tiny/checkpoints --dest swin_tiny   # timm.create_model("local-dir:swin_tiny")
"""

import argparse
import json
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from esvit.checkpoints import source
from esvit.checkpoints.export import export
from esvit.distributed import world
from esvit.eval.features import extract
from esvit.eval.knn import best, knn_accuracy
from esvit.models import Backbone
from esvit.models.student_teacher import Network
from pipeline.augment import CenterCropConfig
from pipeline.errors import run_command
from pipeline.loader import DataConfig
from pipeline.store import Store
from pipeline.stream import StreamConfig


def load_backbone(saved: dict[str, Any], network: str) -> Backbone:
    """The backbone of a checkpoint's "teacher" or "student", in evaluation mode."""
    model = source.model_config(saved)
    prefix = "backbone."
    backbone = Network(model, drop_path=False, with_regions=False).backbone
    state = {name.removeprefix(prefix): tensor for name, tensor in saved[network].items() if name.startswith(prefix)}
    backbone.load_state_dict(state)
    return backbone.eval()


def knn(arguments: argparse.Namespace) -> int:
    """`esvit-eval knn`: print top-1 for each number of neighbours."""
    saved = source.load(arguments.checkpoint, _warn)
    crop = CenterCropConfig(size=arguments.size, resize=arguments.resize or round(arguments.size * 256 / 224))
    with world(arguments.device) as here:
        backbone = load_backbone(saved, arguments.network).to(here.device)
        train, test = (
            extract(backbone, _data(arguments, url), crop, arguments.batch_size, here)
            for url in (arguments.train, arguments.test)
        )
    if not here.is_main:
        return 0
    accuracy = knn_accuracy(train, test)
    k, top1 = best(accuracy)
    result = {"step": saved["step"], "network": arguments.network, "top1": top1, "k": k, "accuracy": accuracy}
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    table = Table("neighbours", "top-1 %", title=f"k-NN, {arguments.network} at step {saved['step']}")
    for count, value in accuracy.items():
        table.add_row(str(count), f"{100 * value:.2f}")
    Console().print(table)
    return 0


def export_backbone(arguments: argparse.Namespace) -> int:
    """`esvit-eval export`: the backbone as safetensors and config, for timm."""
    store = Store(arguments.dest)
    for name in export(source.load(arguments.checkpoint, _warn), arguments.network, store):
        sys.stdout.write(f"wrote {store.url}/{name}\n")
    return 0


def _warn(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _data(arguments: argparse.Namespace, url: str) -> DataConfig:
    return DataConfig(
        stream=StreamConfig(shards=url, cache_dir=arguments.cache_dir),
        executor=arguments.executor,
        num_threads=arguments.num_threads,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluate an EsViT checkpoint.")
    protocols = parser.add_subparsers(dest="protocol", required=True)
    knn_parser = protocols.add_parser("knn", help="k-nearest-neighbour classification of frozen features")
    knn_parser.set_defaults(run=knn)
    knn_parser.add_argument("--checkpoint", required=True, help="file, or folder whose newest is taken")
    knn_parser.add_argument("--train", required=True, metavar="URL", help="shards of the training set")
    knn_parser.add_argument("--test", required=True, metavar="URL", help="shards of the test set")
    knn_parser.add_argument("--network", choices=("teacher", "student"), default="teacher")
    knn_parser.add_argument("--size", type=int, default=224, help="side of the centre crop, pixels")
    knn_parser.add_argument("--resize", type=int, help="shorter side before the crop; default size * 256 / 224")
    knn_parser.add_argument("--batch-size", type=int, default=256, help="images of each rank at a time")
    knn_parser.add_argument("--executor", default="cpu")
    knn_parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    knn_parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    knn_parser.add_argument("--cache-dir", default="~/.cache/esvit-streaming")
    knn_parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    export_parser = protocols.add_parser("export", help="the backbone for timm: safetensors and config.json")
    export_parser.set_defaults(run=export_backbone)
    export_parser.add_argument("--checkpoint", required=True, help="file, or folder whose newest is taken")
    export_parser.add_argument("--dest", required=True, metavar="URL", help="folder to write into")
    export_parser.add_argument("--network", choices=("teacher", "student"), default="teacher")
    return parser.parse_args()


def main() -> None:
    """Console script `esvit-eval`."""
    arguments = parse_arguments()
    run_command(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
