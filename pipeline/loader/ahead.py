"""Items made ahead of their use, in order, by one background thread."""

import queue
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What `items()` yields, up to `capacity` of them made before they are asked for.

    The thread ends with `stop`, when this object is dropped, and before the interpreter exits: a thread that is cut
    off inside of torch ends the process with an abort.
    """

    def __init__(self, items: Callable[[], Generator[T]], capacity: int, name: str) -> None:
        self._results: queue.Queue[T | BaseException] = queue.Queue(capacity)
        stopping = threading.Event()
        # The thread must not refer to this object, or it could never be dropped.
        arguments = (items, self._results, stopping)
        thread = threading.Thread(target=_make, args=arguments, name=name, daemon=True)
        self._end = weakref.finalize(self, _end, thread, stopping)
        thread.start()

    def __len__(self) -> int:
        """How many are ready."""
        return self._results.qsize()

    def get(self, timeout_s: float) -> T:
        """The next item. What `items` raises is raised here, in its turn.

        Raises:
            queue.Empty: there was none for so long.
        """
        item = self._results.get(timeout=timeout_s)
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """End the thread, and with it the iterator of `items`; returns once it has ended."""
        self._end()


def _end(thread: threading.Thread, stopping: threading.Event) -> None:
    stopping.set()
    if thread is not threading.current_thread():  # the garbage collector runs in any thread
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
                del item  # or the next would be made beside it, in memory of its own
        finally:
            source.close()
    except BaseException as error:
        _put(results, error, stopping)


def _put(results: "queue.Queue[T | BaseException]", item: T | BaseException, stopping: threading.Event) -> bool:
    """Put, unless the consumer has gone; False then."""
    while not stopping.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
