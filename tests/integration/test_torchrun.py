"""A real torchrun: it restarts a run whose rank has died; killed, it takes its ranks along; no step comes twice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.training import environment, read_jsonl, train, train_command

pytestmark = pytest.mark.slow


def test_a_rank_then_torchrun_is_killed_and_the_run_goes_on(shards: str, tmp_path: Path) -> None:
    command = train_command(tmp_path, shards, "schedule.epochs=2000", "checkpoint.every_steps=2", num_ranks=2)
    command.insert(1, "--max-restarts=1")
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(command, env=environment(), stdout=said, stderr=subprocess.STDOUT)
    try:
        _wait(lambda: _num_steps(tmp_path) > 2)
        os.kill(_ranks_of(launcher.pid)[1], signal.SIGKILL)
        _wait((tmp_path / "checkpoints/writers/00000002.json").exists)
        _wait(lambda: len(_ranks_of(launcher.pid)) == 2 and _num_steps(tmp_path) > 4)
        ranks = _ranks_of(launcher.pid)
    finally:
        launcher.kill()
        launcher.wait()
    _wait(lambda: not any(map(_is_alive, ranks)))
    last = read_jsonl(tmp_path / "log.jsonl")[-1]["step"]
    done = train(tmp_path, shards, f"schedule.epochs={last // 4 + 2}", "checkpoint.every_steps=2", num_ranks=2)
    assert done.returncode == 0 and "resuming from" in done.stdout, done.stderr
    assert "watching" not in done.stdout + (tmp_path / "said").read_text()
    steps = [record["step"] for record in read_jsonl(tmp_path / "log.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > last


def _wait(happens: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _num_steps(output: Path) -> int:
    log = output / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _ranks_of(launcher: int) -> list[int]:
    """The processes that torchrun has started, in the order of ranks."""
    return [int(c) for f in Path(f"/proc/{launcher}/task").glob("*/children") for c in f.read_text().split()]


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
