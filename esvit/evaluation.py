"""The commands of `esvit-eval`: evaluate a checkpoint, or export its backbone."""

import argparse
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from esvit.checkpoints import source
from esvit.checkpoints.export import export
from esvit.checkpoints.files import CheckpointError
from esvit.distributed import world
from esvit.eval.features import extract
from esvit.eval.knn import best, knn_accuracy
from esvit.models import Backbone, build_backbone
from esvit.models.sizes import check_image_size
from pipeline.augment import CenterCropConfig
from pipeline.console.command import write_json
from pipeline.console.lines import write_line, write_note
from pipeline.console.tables import print_table
from pipeline.loader import DataConfig
from pipeline.shards.cache import CacheConfig
from pipeline.store import Store
from pipeline.stream import StreamConfig


def load_backbone(saved: dict[str, Any], network: str, allow_import: Sequence[str] = ()) -> Backbone:
    """The backbone of a checkpoint's "teacher" or "student", in evaluation mode; see `source.backbone_of`."""
    config, state = source.backbone_of(saved, network, allow_import)
    backbone = build_backbone(config, drop_path=False)
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:  # of a class of the user's
        raise CheckpointError(
            f"the checkpoint's {network} does not fit {config.name}: {str(error).splitlines()[-1].strip()}"
        ) from None
    return backbone.eval()


def knn(arguments: argparse.Namespace) -> int:
    """`esvit-eval knn`: print top-1 and top-5 accuracy per number of neighbours."""
    saved = source.load(arguments.checkpoint, write_note)
    crop = CenterCropConfig(size=arguments.size, resize=arguments.resize)
    with world(arguments.device) as here:
        backbone = load_backbone(saved, arguments.network, arguments.allow_import).to(here.device)
        check_image_size(backbone, arguments.size, here.device, f"--size {arguments.size}")
        train, test = (
            extract(backbone, _data(arguments, url), crop, arguments.batch_size, here)
            for url in (arguments.train, arguments.test)
        )
    if not here.is_main:
        return 0
    accuracy = knn_accuracy(train, test, arguments.neighbours, arguments.temperature)
    if left := [str(k) for k in arguments.neighbours if k not in accuracy]:
        write_note(
            f"left out: {', '.join(left)} neighbours, more than the {len(train.labels)} images of the training set"
        )
    k = best(accuracy)
    result = {
        "step": saved["step"],
        "network": arguments.network,
        "temperature": arguments.temperature,
        "k": k,
        **accuracy[k]._asdict(),
        "accuracy": {k: found.top1 for k, found in accuracy.items()},
        "accuracy_top5": {k: found.top5 for k, found in accuracy.items()},
    }
    if arguments.json:
        write_json(result)
        return 0
    table = Table("neighbours", "top-1 %", "top-5 %", title=f"k-NN, {arguments.network} at step {saved['step']}")
    for count, found in accuracy.items():
        table.add_row(str(count), *(f"{100 * value:.2f}" for value in found))
    print_table(table)
    return 0


def export_backbone(arguments: argparse.Namespace) -> int:
    """`esvit-eval export`: the backbone as safetensors and config, for timm."""
    store = Store(arguments.dest)
    saved = source.load(arguments.checkpoint, write_note)
    files = [f"{store.url}/{name}" for name in export(saved, arguments.network, store, arguments.allow_import)]
    if arguments.json:
        write_json({"step": saved["step"], "network": arguments.network, "files": files})
    else:
        for file in files:
            write_line(f"wrote {file}")
    return 0


def _data(arguments: argparse.Namespace, url: str) -> DataConfig:
    return DataConfig(
        stream=StreamConfig(shards=url, cache=CacheConfig(folder=arguments.cache_dir)),
        executor=arguments.executor,
        num_threads=arguments.num_threads,
    )
