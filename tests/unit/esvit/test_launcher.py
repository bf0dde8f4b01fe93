"""A rank that torchrun has started ends with it, even after SIGKILL; other processes outlive their parents."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RANK = (
    "from esvit.launcher import end_with_launcher as end; end(); print('up', flush=True); import time; time.sleep(60)"
)
# A parent that starts a rank, says its pid and dies of SIGKILL once the rank is up.
LAUNCHER = f"""
import os, signal, subprocess, sys
extra = {{"TORCHELASTIC_RUN_ID": "x"}} if sys.argv[1] == "torchrun" else {{}}
pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
rank = subprocess.Popen([sys.executable, "-c", {RANK!r}], env={{**os.environ, **extra}}, **pipes)
rank.stdout.readline()
print(rank.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def rank_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Starts a launcher of this kind, which dies; returns the pid of its rank."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    pids: list[int] = []

    def start(kind: str, **env: str) -> int:
        command = [sys.executable, "-c", LAUNCHER, kind]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=60)
        pids.append(int(done.stdout))
        return pids[-1]

    yield start
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def _is_running(pid: int) -> bool:
    time.sleep(0.2)
    return Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() != b""


def test_a_rank_ends_when_its_torchrun_is_killed(rank_of: Callable[..., int]) -> None:
    assert _is_gone(rank_of("torchrun"))


def test_without_torchrun_a_process_outlives_its_parent(rank_of: Callable[..., int]) -> None:
    assert _is_running(rank_of("shell"))


def test_a_script_between_torchrun_and_a_rank_may_end_first(rank_of: Callable[..., int]) -> None:
    assert _is_running(rank_of("torchrun", TORCHELASTIC_RUN_ID="x"))


def test_a_parent_that_is_gone_already_ends_the_process_at_once() -> None:
    code = "from esvit.launcher import end_with; end_with(1 << 22); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
