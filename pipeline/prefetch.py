"""Prefetching: work on the next items in threads, hand the results over in order, never further ahead than allowed."""

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
    """Yield `function(item)` for each item in order, with up to `look_ahead` items begun before they are asked for.

    Where `is_ready(item)`, the function has so little to do that it is called at once: handing an item to a thread and
    waking it costs more than reading a photograph from memory.
    The first exception of `function` is raised where its result would have been yielded. Closing the iterator drops
    what has not begun and waits for what has.
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
