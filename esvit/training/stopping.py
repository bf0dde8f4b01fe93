"""Stop a run by a signal: SIGTERM from a scheduler, Ctrl-C from a person. No step is lost.

In the loop, the first signal ends the run after the step and a checkpoint. A single process whose next batch is not
there saves at once. Of several ranks, the others have begun that step, so a rank waits 1.5 s for its batch; then all
end without a new checkpoint. Before the loop there is nothing to save: the first signal ends the run at once.

A second Ctrl-C ends the process at once; in a script that calls `esvit.train` it raises `KeyboardInterrupt`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from esvit.distributed import World
from esvit.failure import ending_together
from pipeline.console.ending import EXIT_INTERRUPTED, EXIT_RETRY, GRACE_S, with_deadline

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WAIT_S = 1.5  # of several ranks, for a batch that may be about to come
_ONE = b"\nCtrl-C: this step ends, then a checkpoint is written; Ctrl-C again ends the run at once\n"
_SEVERAL = b"\nCtrl-C: the next logged step ends, then a checkpoint is written; Ctrl-C again ends the run at once\n"


class Stop:
    """Whether a signal has asked this run to stop. Made by `stopping`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: int | None = None
        self._asked_s = 0.0
        self._in_loop, self._left_s = False, 0.0

    @contextmanager
    def loop(self) -> Iterator[None]:
        """The loop: from now on, a signal saves a checkpoint, and the failure of a rank ends all."""
        self._in_loop = True
        try:
            with ending_together(self._world.rank, self._world.size):
                yield
        finally:
            self._left_s = time.monotonic()

    def agreed(self, now: bool) -> bool:
        """Whether all ranks stop here. Several ranks ask each other only if `now`, where they wait anyway."""
        if self._world.size == 1:
            return self._asked is not None
        return now and self._world.any(self._asked is not None)

    def ends_wait(self) -> bool:
        """Whether this rank no longer waits for its next batch."""
        if self._asked is None:
            return False
        return self._world.size == 1 or time.monotonic() > self._asked_s + _WAIT_S

    def deadline(self, signalled_s: float) -> float | None:
        """When the process must end after a signal, see `pipeline.console.ending`: in the loop, not before its end."""
        if self._in_loop and not self._left_s:
            return None
        return max(signalled_s, self._left_s) + GRACE_S

    @property
    def cause(self) -> str:
        """The signal that has stopped the run."""
        return "Ctrl-C" if self._asked == signal.SIGINT else "SIGTERM"

    @property
    def status(self) -> int:
        """The exit status of a run that was stopped."""
        return EXIT_INTERRUPTED if self._asked == signal.SIGINT else EXIT_RETRY

    def handle(self, number: int, _frame: object) -> None:
        """The signal handler."""
        is_ctrl_c = number == signal.SIGINT
        if is_ctrl_c and (self._asked is not None or not self._in_loop):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        if not self._in_loop:
            raise SystemExit(EXIT_RETRY)
        if self._asked is None:
            self._asked, self._asked_s = number, time.monotonic()
            if is_ctrl_c and self._world.is_main:  # not through a stream: the interrupted code may hold its lock
                os.write(2, _ONE if self._world.size == 1 else _SEVERAL)


@contextmanager
def stopping(world: World) -> Iterator[Stop]:
    """Handle SIGTERM and Ctrl-C. Only the main thread gets signals: in another one, none are handled."""
    stop = Stop(world)
    is_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop.handle) for number in _SIGNALS} if is_main_thread else {}
    try:
        with with_deadline(stop.deadline):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
