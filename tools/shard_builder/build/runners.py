"""Run many tasks at once, and retry those that fail because of a store, a disk or a lost worker.

An engine decides where a task runs: in processes of this machine, or elsewhere. `run_tasks` handles failures, so all
engines behave alike.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from pipeline import telemetry
from pipeline.console.lines import write_note
from pipeline.errors import UserError
from pipeline.store import StoreError

MAX_ATTEMPTS = 3

T = TypeVar("T")
R = TypeVar("R")


class RunnerError(UserError):
    """Tasks failed for good, or an engine cannot start."""


class WorkerDiedError(UserError):
    """The process that ran a task died."""


class Engine(Protocol):
    """Where tasks run."""

    num_slots: int
    """Tasks at once."""

    def submit(self, function: Callable[[T], R], task: T) -> "Future[R]":
        """Start a task. Its future raises the exception of the function, or `WorkerDiedError`."""

    def close(self) -> None:
        """Start no more tasks, and wait for the running ones."""


def run_tasks(engine: Engine, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """Yield each result when it is ready, in any order.

    A task that fails because of its store, its disk or a dead process goes to the end of the queue; it gets
    `MAX_ATTEMPTS` attempts. After `MAX_ATTEMPTS * num_slots` failures in a row the cause is not a single task: no more
    tasks are started. Any other error ends the run at once.

    Raises:
        RunnerError: some tasks failed for good or were not started; all other results have been yielded.
    """
    queue = deque((task, 1) for task in tasks)
    running: dict[Future[R], tuple[T, int]] = {}
    num_done = num_failed_in_a_row = 0
    reason: Exception | None = None
    while queue or running:
        while queue and len(running) < engine.num_slots:
            task, attempt = queue.popleft()
            running[engine.submit(function, task)] = task, attempt
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, attempt = running.pop(future)
            try:
                result = future.result()
            except (StoreError, WorkerDiedError, OSError) as error:
                reason, num_failed_in_a_row = error, num_failed_in_a_row + 1
                telemetry.BUILD_FAILURES.inc()
                write_note(f"attempt {attempt} of {MAX_ATTEMPTS} failed: {error}")
                if attempt < MAX_ATTEMPTS:
                    queue.append((task, attempt + 1))
                if num_failed_in_a_row >= MAX_ATTEMPTS * engine.num_slots:
                    queue.clear()
            else:
                num_done, num_failed_in_a_row = num_done + 1, 0
                yield result
    if num_done < len(tasks):
        raise RunnerError(
            f"{len(tasks) - num_done} of {len(tasks)} shards failed or were not begun: {reason}; "
            "run the same command again to go on"
        )


class InlineEngine:
    """Runs tasks in this process, one after the other."""

    num_slots = 1

    def submit(self, function: Callable[[T], R], task: T) -> "Future[R]":
        future: Future[R] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


class ProcessEngine:
    """Runs tasks in processes of this machine. If one is killed, usually for lack of memory, all are started again.

    The processes are spawned, not forked: event loops and locks of the S3 client do not survive a fork.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_slots = num_workers
        self._pool = self._start()

    def submit(self, function: Callable[[T], R], task: T) -> "Future[R]":
        try:
            future = self._pool.submit(function, task)
        except BrokenProcessPool:
            self._pool = self._start()
            future = self._pool.submit(function, task)
        return relayed(future, _explain)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.num_slots, context, initializer=_end_with_parent)


def open_local_engine(num_workers: int, num_tasks: int) -> Engine:
    """Processes if there are several tasks and several workers, else this process."""
    num_workers = min(num_workers, num_tasks)
    return ProcessEngine(num_workers) if num_workers > 1 else InlineEngine()


def relayed(inner: "Future[R]", translate: Callable[[BaseException], BaseException]) -> "Future[R]":
    """A future with the result of `inner`; its exception goes through `translate`."""
    outer: Future[R] = Future()

    def relay(done: "Future[R]") -> None:
        if done.cancelled():
            outer.cancel()
        elif error := done.exception():
            outer.set_exception(translate(error))
        else:
            outer.set_result(done.result())

    inner.add_done_callback(relay)
    return outer


def _explain(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return WorkerDiedError("a worker process was killed, perhaps for want of memory: use fewer --num-workers")
    return error


def _end_with_parent() -> None:
    """In a worker: stop at once on Ctrl-C, without a traceback, and also when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
