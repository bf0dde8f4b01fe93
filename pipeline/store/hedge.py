"""Hedged requests: if an answer is much slower than recent answers, send a second request and take the first answer.

Most slow requests to an object store are due to one slow server, and a second request is fast (Dean and Barroso, The
Tail at Scale, 2013). The number of second requests is bounded, so a slow store does not get twice the load.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pipeline import telemetry

_MIN_PATIENCE_S = 1.0
_TIMES_P95 = 3.0
_NUM_RECENT = 128
_SHARE = 0.04  # largest share of second requests among all requests
_MAX_CREDIT = 2.0  # unused second requests that can be saved for later

R = TypeVar("R")


class Hedge:
    """The hedged requests to one store. Used from the event loop only, so there are no locks."""

    def __init__(self) -> None:
        self._recent_s: deque[float] = deque(maxlen=_NUM_RECENT)
        self._credit = _MAX_CREDIT

    async def first_of(self, request: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result of `request()`, or of a second request. Fails if all requests sent fail."""
        begin_s, tasks = time.monotonic(), {asyncio.create_task(request())}
        self._credit = min(self._credit + _SHARE, _MAX_CREDIT)
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._patience_s())
            if not done and self._credit >= 1:
                self._credit -= 1
                telemetry.STORE_HEDGES.inc()
                tasks.add(asyncio.create_task(request()))
            result = await _first_success(tasks)
            self._recent_s.append(time.monotonic() - begin_s)
            return result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _patience_s(self) -> float:
        recent_s = sorted(self._recent_s)
        p95_s = recent_s[int(0.95 * len(recent_s))] if recent_s else 0.0
        return max(_MIN_PATIENCE_S, _TIMES_P95 * p95_s)


async def _first_success(tasks: set["asyncio.Task[R]"]) -> R:
    pending = tasks
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not pending or task.exception() is None:
                return task.result()
