"""Our commands in processes that need not import torch: each is forked from a server that has done so once.

A process runs what a console script runs, or a script in a *.py file, with an environment, a folder, standard streams
and signals of its own. Starting it takes a tenth of a second instead of four. Tests of the scripts themselves, and of
torchrun, start those instead.
"""

import multiprocessing
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Self

from support.console import SCRIPTS

IMPORTED = ["esvit.training.check", "esvit.training.loop", "pipeline.augment", "pipeline.loader", "s3fs"]
_LAST_WORDS_S = 1.0  # after one rank has failed; torchrun does not end the others at once either


def fork_server() -> ForkServerContext:
    """To start processes from a server that has imported torch and our packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Ranks:
    """A command of ours that runs in `num_ranks` processes, as under torchrun: if one fails, the others are ended.

    The end of a `with` kills what still runs.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], num_ranks: int = 1, folder: Path = Path()
    ) -> None:
        self._said_in = tempfile.TemporaryDirectory(prefix="ranks-")
        self._streams = [Path(self._said_in.name, name) for name in ("stdout", "stderr")]
        for stream in self._streams:
            stream.touch()
        self._command = list(command)
        self._ranks = [
            fork_server().Process(target=_run, args=(self._command, {**env, **launched}, folder, self._streams))
            for launched in _environments(num_ranks)
        ]
        for rank in self._ranks:
            rank.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for rank in self._ranks:
            rank.join()
        self._said_in.cleanup()

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of ranks."""
        return [rank.pid or 0 for rank in self._ranks]

    @property
    def stdout(self) -> str:
        """What the ranks have written to standard output so far."""
        return self._streams[0].read_text()

    @property
    def stderr(self) -> str:
        """What the ranks have written to standard error so far."""
        return self._streams[1].read_text()

    def is_running(self) -> bool:
        """Whether a rank still runs."""
        return any(rank.is_alive() for rank in self._ranks)

    def end(self, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Wait for the end. The status is that of the rank, or of several 1 if one failed.

        Raises:
            TimeoutError: a rank still ran after `timeout_s`; all were killed.
        """
        deadline_s = time.monotonic() + timeout_s
        while running := [rank.sentinel for rank in self._ranks if rank.is_alive()]:
            one_failed = any(rank.exitcode for rank in self._ranks)
            left_s = deadline_s - time.monotonic()
            if wait(running, min(left_s, _LAST_WORDS_S) if one_failed else left_s):
                continue
            if time.monotonic() >= deadline_s:
                self.kill()
                raise TimeoutError(f"{self._command} did not end: {self.stdout} {self.stderr}")
            self.kill(signal.SIGTERM)
        statuses = [rank.exitcode or 0 for rank in self._ranks]
        status = statuses[0] if len(statuses) == 1 else int(any(statuses))
        return subprocess.CompletedProcess(self._command, status, self.stdout, self.stderr)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the ranks that run."""
        for rank in self._ranks:
            if rank.is_alive() and rank.pid:
                os.kill(rank.pid, number)


def run(command: Sequence[str], env: Mapping[str, str], folder: Path = Path()) -> "subprocess.CompletedProcess[str]":
    """Run a command in `folder` to its end."""
    with Ranks(command, env, folder=folder) as process:
        return process.end()


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """What torchrun says to each rank; nothing to one that is alone."""
    if num_ranks == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(num_ranks)}
    return [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def _run(command: list[str], env: dict[str, str], folder: Path, streams: list[Path]) -> None:
    for number, stream in enumerate(streams, 1):
        with stream.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = command
    os.chdir(folder)
    if command[0].endswith(".py"):
        runpy.run_path(command[0], run_name="__main__")
    else:
        pkgutil.resolve_name(SCRIPTS[Path(command[0]).name])()
