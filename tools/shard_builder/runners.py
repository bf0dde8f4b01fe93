"""Runners: a function over many tasks at once, here on the processes of one machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipeline.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class RunnerError(UserError):
    """A worker process died."""


def run_in_processes(function: Callable[[T], R], tasks: Sequence[T], num_workers: int) -> Iterator[R]:
    """Yield the results as they come, in any order.

    Processes are spawned, not forked: event loops and locks of the S3 client do not survive a fork. After an
    error or Ctrl-C no further task starts. One worker, or one task, needs no pool and runs here.

    Raises:
        RunnerError: a worker was killed, which usually means that memory ran out.
    """
    num_workers = min(num_workers, len(tasks))
    if num_workers <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_end_with_parent)
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool:
        raise RunnerError(
            "a worker process was killed, perhaps for want of memory; run the command again to resume, "
            "with fewer --workers if it recurs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: stop at once on Ctrl-C, without a traceback, and when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
