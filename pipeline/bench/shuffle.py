"""How well the order mixes, against a uniform random permutation of the same samples.

Measured on the labels in the order of training, for data sets whose shards hold one class after another:

classes_per_batch      different labels in a global batch, mean over an epoch
class_pairs            how often two samples of a batch share their label
class_pairs_next       how often a sample of a batch and one of the next share their label
class_runs             runs of equal labels, batch after batch, within a batch in the order of the ranks
same_shard_neighbours  how often two samples next to each other come from one shard

Each is a ratio to what permutations give (1 = mixes as well). The first three say what an optimiser step sees; the
last two depend on the order within a batch, where each rank has its own lanes. `default` is the default order, the
others name `lanes x block_shards`.
"""

import argparse
import json
import sys

import numpy as np
from numpy.typing import NDArray

from pipeline.bench.report import Rows, print_table
from pipeline.command import CACHE_DIR, run_command
from pipeline.order import OrderConfig, SampleOrder
from pipeline.shards.cache import CacheConfig, ShardCache
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store

_PERMUTATIONS = 8
Ints = NDArray[np.int64]


def measure(ids: Ints, labels: Ints, shards: Ints, batch_size: int) -> dict[str, float]:
    """Mixing of one epoch: `ids` in the order of training; `labels` and `shards` by id."""
    ordered, origin = labels[ids], shards[ids]
    batches = ordered.reshape(-1, batch_size)
    counts = np.array([np.bincount(batch, minlength=int(labels.max()) + 1) for batch in batches])
    pairs = (counts * (counts - 1)).sum(axis=1) / (batch_size * (batch_size - 1))
    pairs_next = (counts[1:] * counts[:-1]).sum(axis=1) / batch_size**2
    return {
        "classes_per_batch": float(np.mean(np.count_nonzero(counts, axis=1))),
        "class_pairs": float(pairs.mean()),
        "class_pairs_next": float(pairs_next.mean()),
        "class_runs": float(1 + np.count_nonzero(np.diff(ordered))),
        "same_shard_neighbours": float(np.mean(origin[1:] == origin[:-1])),
    }


def epoch(order: SampleOrder) -> Ints:
    """The ids of one epoch in the order of training."""
    return np.concatenate([order.batch(0, step) for step in range(order.num_steps)])


def mixing(sizes: list[int], labels: Ints, batch_size: int, configs: dict[str, OrderConfig], seed: int = 0) -> Rows:
    """Ratios of each order to the mean of several uniform permutations."""
    shards = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    num_used = len(labels) // batch_size * batch_size
    uniform = [
        measure(rng.permutation(len(labels))[:num_used], labels, shards, batch_size) for _ in range(_PERMUTATIONS)
    ]
    expected = {name: float(np.mean([each[name] for each in uniform])) for name in uniform[0]}
    rows: Rows = {"permutation": dict.fromkeys(expected, 1.0)}
    for title, config in configs.items():
        found = measure(epoch(SampleOrder(sizes, seed, batch_size, config)), labels, shards, batch_size)
        rows[title] = {name: _ratio(value, expected[name]) for name, value in found.items()}
    return rows


def _ratio(value: float, expected: float) -> float:
    """1 where both are zero: labels that occur once never meet."""
    return value / expected if expected else float(value == expected) or float("inf")


def _labels(url: str, cache_dir: str) -> tuple[list[int], Ints]:
    store = Store(url)
    manifest = read_manifest(store)
    cache = ShardCache(store, manifest, CacheConfig(folder=cache_dir))
    labels = [np.asarray(cache.shard(i).index["label"], dtype=np.int64) for i in range(len(manifest.shards))]
    return [entry.num_samples for entry in manifest.shards], np.concatenate(labels)


def _configs(text: str) -> dict[str, OrderConfig]:
    pairs = [pair.split("x") for pair in text.split(",")] if text else []
    others = {f"{lanes} x {block}": OrderConfig(lanes=int(lanes), block_shards=int(block)) for lanes, block in pairs}
    return {"default": OrderConfig(), **others}


def _run(arguments: argparse.Namespace) -> None:
    sizes, labels = _labels(arguments.data, arguments.cache_dir)
    rows = mixing(sizes, labels, arguments.batch_size, arguments.order, arguments.seed)
    if arguments.json:
        sys.stdout.write(json.dumps({"data": arguments.data, "batch_size": arguments.batch_size, **rows}) + "\n")
    else:
        print_table(f"ratio to a full permutation, {len(labels)} samples in {len(sizes)} shards", rows)


def main(words: list[str]) -> None:
    """`pipeline-bench shuffle`."""
    parser = argparse.ArgumentParser("pipeline-bench shuffle", description="Measure how well the order mixes.")
    parser.add_argument("--data", required=True, metavar="URL", help="shards to read the labels of")
    parser.add_argument("--batch-size", type=int, default=256, help="global batch")
    parser.add_argument("--order", type=_configs, default=_configs(""), metavar="LANESxBLOCK,...", help="others to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", default=CACHE_DIR, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(words)
    run_command(lambda: _run(arguments))
