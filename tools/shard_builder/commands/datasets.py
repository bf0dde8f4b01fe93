"""The command `shard-builder datasets`: the known data sets, and the layout of their source folders."""

import argparse
import itertools
import sys
from typing import Any

from pipeline.console.command import Commands, add_command, add_json_flag, write_json
from tools.shard_builder.readers import DATASETS, Dataset


def add_datasets_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    summary = "list the known data sets and formats, with sizes, licence page and layout"
    command = add_command(commands, "datasets", summary, _datasets)
    command.add_argument("name", nargs="?", choices=tuple(DATASETS), metavar="NAME", help="list only this data set")
    add_json_flag(command)


def _datasets(args: argparse.Namespace) -> None:
    chosen = [DATASETS[args.name]] if args.name else list(DATASETS.values())
    if args.json:
        write_json({"datasets": [describe(dataset) for dataset in chosen]})
    else:
        sys.stdout.write(render(chosen) + "\n")


def describe(dataset: Dataset) -> dict[str, Any]:
    """The fields of a data set, as JSON values."""
    return {
        "name": dataset.name,
        "use": dataset.use,
        "num_classes": dataset.num_classes,
        "num_images": dict(dataset.num_images),
        "metric": dataset.metric,
        "suites": list(dataset.suites),
        "layout": dataset.layout,
        "page": dataset.page,
    }


def render(datasets: list[Dataset]) -> str:
    """One heading per use, one paragraph per data set. Lines are not wrapped, so that they can be copied."""
    groups = itertools.groupby(datasets, key=lambda dataset: dataset.use)
    return "\n\n".join("\n".join([use.upper(), *map(_paragraph, group)]) for use, group in groups)


def _paragraph(dataset: Dataset) -> str:
    facts = [f"{split} {number:,}" for split, number in dataset.num_images.items()]
    facts += [f"{dataset.num_classes:,} classes"] if dataset.num_classes and dataset.num_classes > 1 else []
    facts += [dataset.metric] if dataset.metric else []
    facts += dataset.suites
    lines = [f"{dataset.name}: {'; '.join(facts) or 'any classes and splits'}", f"layout  {dataset.layout}"]
    return "\n    ".join(lines + ([f"page    {dataset.page}"] if dataset.page else []))
