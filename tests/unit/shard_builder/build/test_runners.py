"""The engines: results, errors, attempts, and workers that do not outlive their parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.errors import UserError
from pipeline.store import StoreError
from tools.shard_builder.build.runners import (
    MAX_ATTEMPTS,
    Engine,
    InlineEngine,
    ProcessEngine,
    RunnerError,
    run_tasks,
)

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from tools.shard_builder.build.runners import ProcessEngine, run_tasks

def work(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start what runs the tests without it
    list(run_tasks(ProcessEngine(2), work, [sys.argv[1]] * 2))
"""


@pytest.fixture(params=["inline", "processes"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with contextlib.closing(InlineEngine() if request.param == "inline" else ProcessEngine(2)) as engine:
        yield engine


def mistake(_: object) -> None:
    raise UserError("the source has changed")


def unreachable(_: object) -> NoReturn:
    raise StoreError("cannot write s3://b/x: permission denied")


def fails_twice(folder: Path) -> int:
    attempt = len(list(folder.iterdir()))
    (folder / str(attempt)).touch()
    if attempt < 2:
        raise StoreError("try again")
    return attempt


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(folder: Path) -> str:
    if not list(folder.iterdir()):
        (folder / "died").touch()
        die(folder)
    return folder.name


def test_all_results_come(engine: Engine) -> None:
    assert sorted(run_tasks(engine, abs, [-3, 2, -1])) == [1, 2, 3]
    assert list(run_tasks(engine, abs, [])) == []


def test_mistakes_end_the_run_at_once(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="the source has changed"):
        list(run_tasks(engine, mistake, [1, 2]))
    assert capfd.readouterr().err == ""


def test_failures_are_tried_again(engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(run_tasks(engine, fails_twice, [tmp_path])) == [2]
    assert capfd.readouterr().err == "attempt 1 of 3 failed: try again\nattempt 2 of 3 failed: try again\n"


def test_a_store_that_refuses_everything_is_not_asked_for_ever(engine: Engine) -> None:
    tasks = range(100)
    with pytest.raises(
        RunnerError, match=r"100 of 100 shards .* permission denied; run the same command again"
    ) as info:
        list(run_tasks(engine, unreachable, tasks))
    assert "\n" not in str(info.value)


def test_one_bad_task_does_not_keep_the_others_from_their_results() -> None:
    def work(number: int) -> int:
        return number if number != 3 else unreachable(number)

    results = run_tasks(InlineEngine(), work, range(9))
    assert [next(results) for _ in range(8)] == [0, 1, 2, 4, 5, 6, 7, 8]
    with pytest.raises(RunnerError, match="1 of 9 shards"):
        next(results)


def test_a_task_has_so_many_attempts_and_no_more() -> None:
    calls: list[int] = []

    def work(number: int) -> int:
        calls.append(number)
        return number if number else unreachable(number)

    with pytest.raises(RunnerError, match="1 of 4 shards"):
        list(run_tasks(InlineEngine(), work, range(4)))
    assert calls.count(0) == MAX_ATTEMPTS


def test_after_failures_in_a_row_no_more_tasks_are_begun() -> None:
    calls: list[int] = []

    def work(number: int) -> NoReturn:
        calls.append(number)
        unreachable(number)

    with pytest.raises(RunnerError, match="10 of 10 shards failed or were not begun"):
        list(run_tasks(InlineEngine(), work, range(10)))
    assert calls == [0, 1, 2]


def test_failures_that_are_not_in_a_row_end_nothing() -> None:
    failed: set[int] = set()

    def work(number: int) -> int:
        if number % 2 == 0 and number not in failed:
            failed.add(number)
            unreachable(number)
        return number

    assert sorted(run_tasks(InlineEngine(), work, range(8))) == list(range(8))


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with contextlib.closing(ProcessEngine(2)) as engine:
        assert list(run_tasks(engine, die_once, [tmp_path])) == [tmp_path.name]
        with pytest.raises(RunnerError, match="a worker process was killed, perhaps for want of memory"):
            list(run_tasks(engine, die, [1]))
    assert MAX_ATTEMPTS == 3


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
