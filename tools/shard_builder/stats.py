"""What a finished data set holds, for people and for programs."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from pipeline.format.index import MULTI_LABEL
from pipeline.format.manifest import Spread
from pipeline.store import Store, read_manifest
from tools.shard_builder.indexes import read_indexes

_MAX_CLASS_ROWS = 20
_BAR_WIDTH = 30


def collect_stats(store: Store) -> dict[str, Any]:
    """The manifest without its shards, with their number, and the number of samples of each class.

    Classes of a multi-label data set count zero: the index does not say which an image has.

    Raises:
        UserError: the manifest or an index cannot be read or is not valid.
    """
    manifest = read_manifest(store)
    counts = np.zeros(len(manifest.classes), dtype=np.int64)
    for index in read_indexes(store, manifest.shards):
        labels = index["label"]
        counts += np.bincount(labels[labels != MULTI_LABEL], minlength=len(counts))
    summary = manifest.model_dump(mode="json", exclude={"shards", "classes", "schema_version"})
    return summary | {
        "url": store.url,
        "digest": manifest.digest,
        "num_shards": len(manifest.shards),
        "num_classes": len(manifest.classes),
        "samples_per_class": dict(zip(manifest.classes, counts.tolist(), strict=True)),
    }


def render_stats(stats: dict[str, Any], console: Console) -> None:
    """Two tables: the totals, and the classes with their numbers of samples."""
    totals = Table("quantity", Column("value", overflow="fold"), title=stats["url"])
    totals.add_row("data set, split", f"{stats['dataset']}, {stats['split']}")
    totals.add_row("samples", f"{stats['num_samples']:,}")
    totals.add_row("rejected images", f"{stats['num_rejects']:,}")
    totals.add_row("classes", f"{stats['num_classes']:,}")
    totals.add_row("shards", f"{stats['num_shards']:,}")
    totals.add_row("bytes", f"{stats['num_bytes']:,} ({stats['num_bytes'] / 1e6:,.1f} MB)")
    for name, unit in (("image_height", "pixels"), ("image_width", "pixels"), ("image_bytes", "bytes")):
        spread = Spread(**stats[name])
        totals.add_row(
            f"{name.replace('_', ' ')} (min, median, max)",
            f"{spread.min:,}, {spread.median:,}, {spread.max:,} {unit}",
        )
    totals.add_row("manifest digest", stats["digest"])
    console.print(totals)
    console.print(_class_table(stats["samples_per_class"]))


def _class_table(counts: dict[str, int]) -> Table:
    """Largest class first; of many classes, the largest and the smallest."""
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
