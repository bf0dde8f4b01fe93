"""How well the order mixes, compared with a uniform random permutation of the same samples.

Measured on the labels in the order of training, for data sets that are sorted by class:

classes_per_batch      different labels in a global batch, mean over an epoch
class_pairs            how often two samples of a batch share their label
class_pairs_next       how often a sample of a batch and a sample of the next batch share their label
class_runs             number of runs of equal labels; within a batch, in the order of the ranks
same_shard_neighbours  how often two neighbouring samples come from one shard

Each number is a ratio to the mean of permutations (1 = mixes as well). The first three describe what an optimiser step
sees. The last two depend on the order within a batch, where each rank has its own lanes. `default` is the default
order; other rows are named `lanes x block_shards`.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from pipeline.bench.report import Rows, print_table
from pipeline.console.command import write_json
from pipeline.errors import UserError
from pipeline.format.index import INDEX_DTYPE
from pipeline.order import OrderConfig, SampleOrder
from pipeline.order.lanes import ShardSizes
from pipeline.shards.data_sets import read_manifest
from pipeline.shards.remote import RemoteShards
from pipeline.store import Store

_PERMUTATIONS = 8
Ints = NDArray[np.int64]


def measure(ids: Ints, labels: Ints, shards: Ints, batch_size: int) -> dict[str, float]:
    """Mixing of one epoch. `ids` are in the order of training; `labels` and `shards` are indexed by id."""
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


def mixing(sizes: ShardSizes, labels: Ints, batch_size: int, configs: dict[str, OrderConfig], seed: int = 0) -> Rows:
    """Ratios of each order to the mean of several uniform permutations.

    Raises:
        UserError: an order does not fit the batch, or the data set has fewer than two batches.
    """
    orders = {title: SampleOrder(sizes, seed, batch_size, config) for title, config in configs.items()}
    if len(labels) < 2 * batch_size:
        raise UserError(
            f"{len(labels)} samples are fewer than two batches of {batch_size}; choose a smaller --batch-size"
        )
    shards = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    num_used = len(labels) // batch_size * batch_size
    uniform = [
        measure(rng.permutation(len(labels))[:num_used], labels, shards, batch_size) for _ in range(_PERMUTATIONS)
    ]
    expected = {name: float(np.mean([each[name] for each in uniform])) for name in uniform[0]}
    rows: Rows = {"permutation": dict.fromkeys(expected, 1.0)}
    for title, order in orders.items():
        found = measure(epoch(order), labels, shards, batch_size)
        rows[title] = {name: _ratio(value, expected[name]) for name, value in found.items()}
    return rows


def _ratio(value: float, expected: float) -> float | None:
    """The ratio; 1 where both are 0, as for labels that occur once; None where only `expected` is 0."""
    if expected:
        return value / expected
    return None if value else 1.0


def _labels(url: str) -> tuple[Ints, Ints]:
    store = Store(url)
    manifest = read_manifest(store)
    shards = RemoteShards(store, manifest)  # fetches the indexes only
    labels = [shards.shard(i).rows.view(INDEX_DTYPE)["label"].astype(np.int64) for i in range(shards.num_shards)]
    joined = np.concatenate(labels)
    if joined.min() < 0:
        raise UserError(f"{url} does not have one label per image, but this measures how labels mix")
    return manifest.shards.num_samples, joined


def run(arguments: argparse.Namespace) -> None:
    """The command, from its flags to its report."""
    sizes, labels = _labels(arguments.url)
    others = {f"{lanes} x {block}": OrderConfig(lanes=lanes, block_shards=block) for lanes, block in arguments.order}
    configs = {"default": OrderConfig(), **others}
    rows = mixing(sizes, labels, arguments.batch_size, configs, arguments.seed)
    if arguments.json:
        conditions = {name: getattr(arguments, name) for name in ("url", "batch_size", "seed")}
        write_json({**conditions, "ratios": rows})
    else:
        print_table(f"ratio to a full permutation, {len(labels)} samples in {len(sizes)} shards", rows)
