"""The process pool: results, errors, and workers that do not outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from tools.shard_builder.runners import RunnerError, run_in_processes

SCRIPT = """
import os, sys, time
from pathlib import Path
from tools.shard_builder.runners import run_in_processes

def work(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(run_in_processes(work, [sys.argv[1]] * 2, 2))
"""


def fail(_: int) -> None:
    raise UserError("the disk is full")


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_results_come(num_workers: int) -> None:
    assert sorted(run_in_processes(abs, [-3, 2, -1], num_workers)) == [1, 2, 3]
    assert list(run_in_processes(abs, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_errors_come_back_as_they_are(num_workers: int) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        list(run_in_processes(fail, [1, 2], num_workers))


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(RunnerError, match="a worker process was killed"):
        list(run_in_processes(die, [1, 2], 2))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    pids = tmp_path / "pids"
    pids.mkdir()
    process = subprocess.Popen([sys.executable, tmp_path / "script.py", pids], start_new_session=True)
    while process.poll() is None and len(list(pids.iterdir())) < 2:
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.wait(timeout=10)
    deadline_s = time.monotonic() + 10
    while any(Path(f"/proc/{path.name}").exists() for path in pids.iterdir()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
