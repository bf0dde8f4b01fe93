"""Two ranks of which one fails: the other ends with one sentence, which names the rank and its cause."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from esvit import failure
from pipeline.errors import UserError

RANK = """
import os, signal, sys
from esvit.distributed import world
from pipeline.console.command import run_command
from pipeline.errors import UserError

def main():
    with world("cpu") as here:
        here.barrier()
        if here.rank == 1:
            {fault}
        here.barrier()
    return 0

run_command(main)
"""


def run_ranks(fault: str, error_files: Path) -> list[tuple[int, str]]:
    """Exit status and standard error of rank 0, and of rank 1, which has the fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = []
    for rank in range(2):
        env = os.environ | address | {"RANK": str(rank), "TORCHELASTIC_ERROR_FILE": f"{error_files}/{rank}.json"}
        code = RANK.format(fault=fault)
        ranks.append(subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=30)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


@pytest.mark.parametrize(
    ("fault", "statuses", "cause"),
    [
        ("raise UserError('its data are gone')", (2, 2), "error: rank 0 ends because rank 1 failed: its data are gone"),
        ("sys.exit(75)", (75, 75), "rank 0 ends with rank 1: a signal has stopped it"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            (2, -9),
            "error: rank 0 ends because another rank has ended without a message, perhaps killed for want of memory; "
            "see what its launcher says",
        ),
    ],
    ids=["user's mistake", "signal", "killed"],
)
def test_the_other_rank_says_which_rank_failed_and_why(
    fault: str, statuses: tuple[int, int], cause: str, tmp_path: Path
) -> None:
    (status, said), (own_status, own) = run_ranks(fault, tmp_path)
    assert (status, own_status) == statuses, said + own
    assert said.splitlines()[-1] == cause and "Traceback" not in said
    files = {path.name for path in tmp_path.iterdir()}
    assert files == ({"1.json"} if own_status != -9 else set())
    if files:
        message = json.loads((tmp_path / "1.json").read_text())["message"]["message"]
        assert own_status == 75 or own == f"error: {message}\n"


@pytest.mark.parametrize(
    ("sentence", "is_following"),
    [
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242", True),
        ("[../gloo/transport/tcp/pair.cc:547] Read error [127.0.0.1]:4242: Connection reset by peer", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("shape '[2, 3]' is invalid for input of size 5", False),
    ],
)
def test_a_lost_connection_is_told_from_a_fault_of_this_rank(sentence: str, is_following: bool) -> None:
    assert failure._is_following(RuntimeError(sentence)) == is_following


def test_a_cause_is_one_line() -> None:
    assert failure._sentence(UserError("its data are gone")) == "its data are gone"
    assert failure._sentence(RuntimeError("two\nlines")) == "RuntimeError: two lines"
    assert failure._sentence(KeyboardInterrupt()) == failure._sentence(SystemExit(75)) == "a signal has stopped it"


def test_a_rank_whose_cleaning_up_takes_long_is_ended_with_its_cause() -> None:
    code = """
import time
from esvit import failure
from pipeline.errors import UserError
failure._END_WITHIN_S = 0.1
failure._end_later(UserError("its data are gone"))
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (2, "error: its data are gone\n")
