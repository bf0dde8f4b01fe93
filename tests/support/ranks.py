"""Ranks as plain processes: each draws its part of the batches, logs ids and pixels, and saves its position."""

import hashlib
import json
import os
import signal
from itertools import islice
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.loader import DataConfig, ViewBatch, open_loader
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.store.atomic import write_file
from pipeline.stream import StreamConfig, open_training_stream
from support.forking import fork_server

GLOBAL_BATCH = 8
SAVE_EVERY = 3
_VIEWS = (ViewGroup(size=32, count=2, area=(0.4, 1.0)), ViewGroup(size=16, count=2, area=(0.1, 0.4), blur=0.5))

Log = dict[int, list[tuple[int, str]]]
"""Samples of all ranks: for each position, (id, hash of the views) in the order of the batch."""


def run_ranks(shards: str, folder: Path, world_size: int, stop: int, kill_at: int | None = None) -> Log:
    """Run from the position saved in `folder` to `stop`; SIGKILL the last rank after position `kill_at`."""
    context = fork_server()
    barrier = context.Barrier(world_size)
    logs = [folder / f"rank-{rank}.jsonl" for rank in range(world_size)]
    for log in logs:
        log.unlink(missing_ok=True)
    env = dict(os.environ)
    kills = [None] * (world_size - 1) + [kill_at]
    ranks = [
        context.Process(target=_run_rank, args=(shards, folder, rank, world_size, stop, barrier, kill, env))
        for rank, kill in enumerate(kills)
    ]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks if kill_at is None else ranks[-1:]:
            rank.join(120)
            assert rank.exitcode == (0 if kill_at is None else -signal.SIGKILL)
    finally:
        for rank in ranks:  # as a launcher does when one of them is gone
            rank.kill()
            rank.join()
    return _merge([_read(log) for log in logs])


def saved_position(folder: Path) -> int:
    """The position at which a run in `folder` would resume now."""
    state = folder / "state.json"
    return int(json.loads(state.read_text())["position"]) if state.exists() else 0


def _run_rank(
    shards: str,
    folder: Path,
    rank: int,
    world_size: int,
    stop: int,
    barrier: Barrier,
    kill_at: int | None,
    env: dict[str, str],
) -> None:
    os.environ.update(env)  # that of the fork server is older
    torch.set_num_threads(1)
    cache, order = CacheConfig(folder=str(folder / "cache")), OrderConfig(lanes=2, block_shards=2)
    stream_config = StreamConfig(shards=shards, order=order, cache=cache, num_threads=2)
    config = DataConfig(stream=stream_config, num_threads=1)
    stream = open_training_stream(stream_config, 7, GLOBAL_BATCH, rank, world_size)
    state = folder / "state.json"
    if state.exists():
        stream.load_state_dict(json.loads(state.read_text()))
    num_steps = stop - stream.position
    planner = MultiCrop(MultiCropConfig(views=_VIEWS), seed=7)
    with (
        open_loader(stream, planner, config, torch.device("cpu")) as loader,
        open(folder / f"rank-{rank}.jsonl", "a", buffering=1) as log,
    ):
        for batch in islice(loader.forever(), num_steps):
            position = loader.state_dict()["position"]
            log.write(json.dumps([position - 1, batch.ids.tolist(), _pixels(batch)]) + "\n")
            if position - 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            barrier.wait(60)  # a training step ends for all ranks at once
            if rank == 0 and position % SAVE_EVERY == 0:
                write_file(state, json.dumps(loader.state_dict()).encode(), replace=True)


def _pixels(batch: ViewBatch) -> list[str]:
    """A hash of all views of each sample."""
    digests = [hashlib.sha256() for _ in batch.ids]
    for group in batch.views:
        for b, digest in enumerate(digests):
            digest.update(group[:, b].contiguous().numpy().tobytes())
    return [digest.hexdigest() for digest in digests]


def _read(log: Path) -> Log:
    if not log.exists():
        return {}
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {position: list(zip(ids, pixels, strict=True)) for position, ids, pixels in lines}


def _merge(ranks: list[Log]) -> Log:
    whole = set.intersection(*(set(rank) for rank in ranks))
    return {position: [sample for rank in ranks for sample in rank[position]] for position in sorted(whole)}
