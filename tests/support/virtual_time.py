"""An event loop whose seconds pass at once: whoever waits for a time moves the clock there."""

import asyncio
import selectors
from typing import Any


class Clock(selectors.DefaultSelector):
    """Also stands for the module `time`."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return ready

    def monotonic(self) -> float:
        return self.now_s


class Loop(asyncio.SelectorEventLoop):
    """The loop on such a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.time = clock.monotonic  # type: ignore[method-assign]
