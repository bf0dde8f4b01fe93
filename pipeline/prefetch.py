"""Prefetching: work on the next items in threads, and yield the results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    num_threads: int,
    look_ahead: int,
    name: str,
    is_ready: Callable[[T], bool] = lambda _item: False,
) -> Generator[R, None, None]:
    """Yield `function(item)` for each item in order, with at most `look_ahead` items begun in advance.

    Where `is_ready(item)`, the function is called in this thread: waking another thread costs more than reading a
    photograph from memory. The first exception of `function` is raised where its result would have been yielded.
    Closing the iterator waits for the calls that have begun, and drops the others.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    begun: deque[Future[R]] = deque()
    source = iter(items)
    try:
        for item in source:
            begun.append(_at_once(function, item) if is_ready(item) else pool.submit(function, item))
            if len(begun) > look_ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _at_once(function: Callable[[T], R], item: T) -> Future[R]:
    future: Future[R] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future
