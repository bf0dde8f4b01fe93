"""Runs of the real commands for the integration tests: tiny networks on a few images, one or two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import forking

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]

# One thread per rank. No batch norm: its statistics would depend on the number of ranks.
TINY = (
    "global_batch=8",
    "data.stream.order.lanes=2",
    "model.head.batch_norm=false",
    "model.head.hidden=32",
    "augment.views=[{size: 32, count: 2, area: [0.4, 1.0]}, {size: 16, count: 2, area: [0.1, 0.4]}]",
    "schedule.warmup_epochs=0",
    "loss.region_weight=0.5",
    "metrics.log_every_steps=1",
    "metrics.record_samples=true",
)


def build_shards(source: Path, dest: str, env: dict[str, str] | None = None) -> None:
    """Shards of about eight small images each."""
    command = ["shard-builder", "build", "--dataset", "image-folder", "--source", str(source), "--split", "train"]
    done = forking.run([*command, "--dest", dest, "--shard-size", "16KB"], environment(env))
    assert done.returncode == 0, done.stderr


def train_command(output: Path, shards: str, *overrides: str, num_ranks: int = 1) -> list[str]:
    """The command line of a tiny run, for a person: of a script, or of torchrun and what it starts."""
    start = [str(BIN / "esvit-train")]
    if num_ranks > 1:
        start = [str(BIN / "torchrun"), "--standalone", f"--nproc-per-node={num_ranks}", "-m", "esvit.train"]
    settings = (f"output={output}", f"data.stream.shards={shards}", f"data.stream.cache.folder={output}/cache")
    sets = [word for setting in (*settings, *TINY, *overrides) for word in ("--set", setting)]
    return [*start, "--config", str(REPOSITORY / "configs/train/digits_view.yaml"), *sets]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Environment of a training process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(extra or {})}


def begin(
    output: Path, shards: str, *overrides: str, num_ranks: int = 1, env: dict[str, str] | None = None
) -> forking.Ranks:
    """Start a tiny run."""
    return forking.Ranks(train_command(output, shards, *overrides), environment(env), num_ranks)


def train(
    output: Path, shards: str, *overrides: str, num_ranks: int = 1, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run to the end."""
    with begin(output, shards, *overrides, num_ranks=num_ranks, env=env) as ranks:
        return ranks.end()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Records of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained_samples(output: Path, num_ranks: int) -> dict[tuple[int, int], list[int]]:
    """Sample ids of each (epoch, step), ranks in order; of a repeated step the latest."""
    samples: dict[tuple[int, int], list[list[int]]] = {}
    for rank in range(num_ranks):
        for record in read_jsonl(output / f"samples-rank-{rank}.jsonl"):
            place = samples.setdefault((record["epoch"], record["step"]), [[]] * num_ranks)
            place[rank] = record["ids"]
    return {place: [i for ids in ranks for i in ids] for place, ranks in samples.items()}
