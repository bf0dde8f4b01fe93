"""Which rank reads what, for those who do not say it. Run as a script: one rank."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.loops import IterationError
from pipeline.order import OrderError
from pipeline.stream import StreamConfig, open_training_stream
from pipeline.stream.ranks import find_ranks


def test_what_is_given_counts_and_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_ranks(None, None)[:2] == (0, 1)
    monkeypatch.setenv("RANK", "3")
    assert find_ranks(None, None)[:2] == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_ranks(None, None)[:2] == (3, 4)
    assert find_ranks(1, 2)[:2] == (1, 2) and find_ranks(0, None)[:2] == (0, 1)
    with pytest.raises(OrderError, match="world_size 2 is given without a rank"):
        find_ranks(None, 2)


def test_a_rank_that_was_found_reads_its_share(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StreamConfig(shards=str(shards))
    whole = next(iter(open_training_stream(config, 0, 8))).ids.tolist()
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        assert next(iter(open_training_stream(config, 0, 8))).ids.tolist() == whole[2 * rank : 2 * rank + 2]


def test_a_stream_that_was_opened_too_early_is_refused(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StreamConfig(shards=str(shards))
    found, given = open_training_stream(config, 0, 8), open_training_stream(config, 0, 8, rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(IterationError, match="opened as rank 0 of 1, but now this process is rank 2 of 4"):
        next(iter(found))
    assert len(next(iter(given)).ids) == 8  # whoever gives a rank knows better


def run_rank(rank: int, shards: str, folder: str) -> None:
    import torch.distributed as dist

    from pipeline import view_loader

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    with view_loader(shards, 8) as loader:
        sys.stdout.write(" ".join(map(str, next(iter(loader)).ids.tolist())))
    dist.destroy_process_group()


def test_torch_distributed_says_which_rank_this_is(shards: Path, tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(shards), str(tmp_path)] for rank in range(2)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    ids = [int(i) for rank in ranks for i in rank.communicate(timeout=120)[0].split()]
    config = StreamConfig(shards=str(shards))
    assert ids == next(iter(open_training_stream(config, 0, 8, rank=0))).ids.tolist()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), *sys.argv[2:])
