"""One background thread that produces items ahead of their use, in order."""

import queue
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of `items()`, with at most `capacity` of them produced in advance.

    The thread ends with `stop`, when this object is garbage-collected, and before the interpreter exits. (A thread that
    is killed inside torch aborts the process.)
    """

    def __init__(self, items: Callable[[], Generator[T]], capacity: int, name: str) -> None:
        self._results: queue.Queue[T | BaseException] = queue.Queue(capacity)
        stopping = threading.Event()
        # The thread must not refer to this object, or the object would never be garbage-collected.
        arguments = (items, self._results, stopping)
        thread = threading.Thread(target=_make, args=arguments, name=name, daemon=True)
        self._end = weakref.finalize(self, _end, thread, stopping)
        thread.start()

    def __len__(self) -> int:
        """Number of items that are ready."""
        return self._results.qsize()

    def get(self, timeout_s: float) -> T:
        """The next item. An exception of `items` is raised here, after the items before it.

        Raises:
            queue.Empty: no item came within `timeout_s` seconds.
        """
        item = self._results.get(timeout=timeout_s)
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """End the thread and the iterator of `items`; returns once both have ended."""
        self._end()


def _end(thread: threading.Thread, stopping: threading.Event) -> None:
    stopping.set()
    if thread is not threading.current_thread():  # the garbage collector may run in this very thread
        thread.join()


def _make(
    items: Callable[[], Generator[T]], results: "queue.Queue[T | BaseException]", stopping: threading.Event
) -> None:
    try:
        source = items()
        try:
            for item in source:
                if not _put(results, item, stopping):
                    return
                del item  # so that the next item can reuse its memory
        finally:
            source.close()
    except BaseException as error:
        _put(results, error, stopping)


def _put(results: "queue.Queue[T | BaseException]", item: T | BaseException, stopping: threading.Event) -> bool:
    """Put the item. False: the consumer has stopped."""
    while not stopping.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
