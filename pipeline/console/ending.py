"""How a command ends by a signal: within 5 s whatever it is doing, and by a second Ctrl-C at once.

The first signal raises an exception in the main thread, which cleans up. This may take long: Python calls signal
handlers between two bytecodes of the main thread only, and cleaning up waits for threads that download. So a thread
hears of each signal as it comes, and ends the process where the main thread does not.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

from pipeline import waiting

EXIT_RETRY = 75
"""Stopped by a signal, after saving a checkpoint (EX_TEMPFAIL); the same command continues the run."""
EXIT_INTERRUPTED = 130
GRACE_S = 3.0
"""What the main thread has for cleaning up, seconds."""
Deadline = Callable[[float], float | None]
"""From the time of a signal to the time at which the process must end, both of `time.monotonic`; None: it need not."""

_CHECK_EVERY_S = 0.1


def _soon(signalled_s: float) -> float:
    return signalled_s + GRACE_S


class _Watch:
    """The thread. The numbers of signals come through a pipe; a 0 comes from `close`."""

    def __init__(self) -> None:
        self.deadline: Deadline = _soon
        self.signalled_s: float | None = None
        self._status, self._has_heard_all = EXIT_INTERRUPTED, threading.Event()
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._before = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """End the thread, unless a signal has come. Returns whether it has ended."""
        os.write(self._in, b"\0")
        self._has_heard_all.wait()
        if self.signalled_s is not None:
            return False
        signal.set_wakeup_fd(self._before)
        self._thread.join()
        os.close(self._in)
        os.close(self._out)
        return True

    def _run(self) -> None:
        while True:
            pause_s = None if self.signalled_s is None else _CHECK_EVERY_S
            if select.select([self._out], [], [], pause_s)[0]:
                for number in os.read(self._out, 64):
                    self._hear(number)
                    if number == 0:
                        self._has_heard_all.set()
                        if self.signalled_s is None:
                            return
            if self.signalled_s is not None:
                due_s = self.deadline(self.signalled_s)
                if due_s is not None and time.monotonic() >= due_s:
                    self._end(f"interrupted; not waited for: {waiting.describe()}")

    def _hear(self, number: int) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        if self.signalled_s is None:
            self._status = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_RETRY
            self.signalled_s = time.monotonic()
        elif number == signal.SIGINT:
            self._status = EXIT_INTERRUPTED
            self._end("interrupted")

    def _end(self, sentence: str) -> None:
        with contextlib.suppress(OSError):  # not through a stream: the main thread may hold its lock
            os.write(2, f"{sentence}\n".encode())
        os._exit(self._status)


def _interrupt(_number: int, _frame: object) -> None:
    """The first Ctrl-C. The second is for the watch alone: no traceback from the middle of the cleaning up."""
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    raise KeyboardInterrupt


_watch: _Watch | None = None
# A forked child has the pipe of its parent, which must not hear of the child's signals.
os.register_at_fork(after_in_child=lambda: _watch and signal.set_wakeup_fd(-1))


@contextlib.contextmanager
def ending_soon() -> Iterator[None]:
    """For the main thread of a command: a signal with a Python handler ends the process, see the module.

    After a signal this goes on when the block has ended, because the interpreter waits for threads too.
    """
    global _watch
    if _watch or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch, before = _Watch(), signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a job in the background of a shell ignores it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if _watch.close():
            _watch = None
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def with_deadline(deadline: Deadline) -> Iterator[None]:
    """Within `ending_soon`: another rule for the block; the grace begins after it. Elsewhere nothing changes."""
    if _watch is None:
        yield
        return
    _watch.deadline = deadline
    try:
        yield
    finally:
        if _watch.signalled_s is not None:
            _watch.signalled_s = time.monotonic()
        _watch.deadline = _soon
