"""Signals to a command whose main thread does not answer: it waits for a thread, or computes in C."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.console import ending

BODIES = {
    "waits for a thread": "with ThreadPoolExecutor() as pool: pool.submit(work).result()",
    "ends but for a thread": "threading.Thread(target=work).start(); time.sleep(60)",
    "computes in C": "with suppress(KeyboardInterrupt): print('ready', flush=True), compute()\n    compute()",
}
SCRIPT = """
import hashlib, sys, threading, time
from contextlib import suppress
from concurrent.futures import ThreadPoolExecutor
from pipeline import waiting
from pipeline.console import ending
from pipeline.console.command import run_command

def work():
    with waiting.phase("download of x"):
        print("ready", flush=True)
        time.sleep(60)

def compute():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def main():
    ending.GRACE_S = $GRACE
    $BODY

run_command(main)
"""


@contextmanager
def command(body: str, grace_s: float) -> Iterator["subprocess.Popen[str]"]:
    """A running command; it must have ended at the end of the block."""
    code = SCRIPT.replace("$BODY", body).replace("$GRACE", str(grace_s))
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_a_signal_ends_a_command_whatever_it_is_doing(body: str) -> None:
    with command(body, grace_s=0.3) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == ending.EXIT_INTERRUPTED
    expected = "nothing that is known of" if "compute" in body else "download of x (0 s)"
    assert said.splitlines()[-1] == f"interrupted; not waited for: {expected}"


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_a_second_ctrl_c_ends_it_at_once(body: str) -> None:
    with command(body, grace_s=50) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == ending.EXIT_INTERRUPTED and said.splitlines()[-1] == "interrupted"


def test_a_command_that_ends_by_itself_leaves_nothing_behind() -> None:
    with ending.ending_soon():
        assert "signals" in [thread.name for thread in threading.enumerate()]
        with ending.ending_soon():  # one inside another
            pass
    assert "signals" not in [thread.name for thread in threading.enumerate()]
    before = signal.set_wakeup_fd(-1)
    assert before == -1
