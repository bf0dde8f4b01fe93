"""Statistics of a finished data set, as a table, JSON or HTML: the command `shard-builder stats`."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Column, Table

from pipeline.console.command import Commands, add_command, add_json_flag, path, write_json
from pipeline.console.tables import print_table
from pipeline.errors import UserError
from pipeline.format.index import Index
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.indexes import read_indexes
from tools.shard_builder.commands.arguments import add_url_argument
from tools.shard_builder.commands.stats_page import render_page

_COLUMNS = {"image_height": "height", "image_width": "width", "image_bytes": "size"}
_PERCENTS = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_NUM_BINS = 40
_MAX_CLASS_ROWS = 20
_BAR_WIDTH = 30


class StatsError(UserError):
    """The page cannot be written."""


def add_stats_command(commands: Commands) -> None:
    """Register the command with the parser of `shard-builder`."""
    command = add_command(commands, "stats", "describe a finished data set", _stats)
    add_url_argument(command)
    output = command.add_mutually_exclusive_group()
    add_json_flag(output)
    output.add_argument("--html", type=path, metavar="FILE", help="write a page with plots instead")


def _stats(args: argparse.Namespace) -> None:
    stats = collect_stats(Store(args.url))
    if args.json:
        write_json(stats)
    elif args.html:
        try:
            args.html.write_text(render_page(stats), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StatsError(f"cannot write {args.html}: {error.strerror}") from None
    else:
        render_stats(stats)


def collect_stats(store: Store) -> dict[str, Any]:
    """The totals of the manifest, the number of samples per class, and percentiles and a histogram of image height,
    width (pixels) and size (bytes).

    In a multi-label data set every class counts zero: the index does not hold the labels of an image.

    Raises:
        UserError: the manifest or an index cannot be read, or is not valid.
    """
    manifest = read_manifest(store)
    counts = np.zeros(len(manifest.classes), dtype=np.int64)
    indexes = list(read_indexes(store, manifest.shards))
    for index in indexes:
        labels = index["label"]
        counts += np.bincount(labels[labels >= 0], minlength=len(counts))
    summary = manifest.model_dump(mode="json", exclude={"shards", "classes", "schema_version"})
    return summary | {
        "url": store.url,
        "digest": manifest.digest,
        "num_shards": len(manifest.shards),
        "num_classes": len(manifest.classes),
        "samples_per_class": dict(zip(manifest.classes, counts.tolist(), strict=True)),
        **{name: _distribution(indexes, column) for name, column in _COLUMNS.items()},
    }


def _distribution(indexes: Sequence[Index], column: str) -> dict[str, Any]:
    """Percentiles (each is the value of some image), and the number of images per bin of a histogram."""
    values = np.concatenate([index[column] for index in indexes]).astype(np.int64)
    percentiles = np.percentile(values, _PERCENTS, method="lower").tolist()
    top = int(np.percentile(values, 99, method="higher"))  # a few outliers would flatten all other bars
    counts, edges = np.histogram(np.minimum(values, top), bins=_NUM_BINS, range=(int(values.min()), top))
    return {
        "percentiles": dict(zip(map(str, _PERCENTS), percentiles, strict=True)),
        "histogram": {"edges": edges.round(1).tolist(), "counts": counts.tolist()},
    }


def render_stats(stats: dict[str, Any]) -> None:
    """Print three tables: totals, image sizes, and samples per class."""
    totals = Table("quantity", Column("value", overflow="fold"), title=stats["url"])
    totals.add_row("data set, split", f"{stats['dataset']}, {stats['split']}")
    totals.add_row("samples", f"{stats['num_samples']:,}")
    totals.add_row("rejected images", f"{stats['num_rejects']:,}")
    totals.add_row("classes", f"{stats['num_classes']:,}" if stats["num_classes"] else "none: unlabelled")
    totals.add_row("shards", f"{stats['num_shards']:,}")
    totals.add_row("bytes", f"{stats['num_bytes']:,} ({stats['num_bytes'] / 1e6:,.1f} MB)")
    totals.add_row("manifest digest", stats["digest"])
    print_table(totals)
    sizes = Table("percentile", *(name.removeprefix("image_") for name in _COLUMNS), title="images")
    for percent in map(str, _PERCENTS):
        sizes.add_row(percent, *(f"{stats[name]['percentiles'][percent]:,}" for name in _COLUMNS))
    print_table(sizes)
    if stats["num_classes"]:
        print_table(_class_table(stats["samples_per_class"]))


def _class_table(counts: dict[str, int]) -> Table:
    """Largest class first; of many classes only the largest and the smallest."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    largest = max(1, rows[0][1])
    hidden = len(rows) - _MAX_CLASS_ROWS
    if hidden > 0:
        half = _MAX_CLASS_ROWS // 2
        rows = [*rows[:half], (f"({hidden} more)", -1), *rows[-half:]]
    table = Table("class", "samples", "", title="classes")
    for name, count in rows:
        table.add_row(*((name, f"{count:,}", "█" * (count * _BAR_WIDTH // largest)) if count >= 0 else (name,)))
    return table
