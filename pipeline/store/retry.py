"""Retries: which requests are tried again, how long the pauses are, and when to give up.

This is the only layer of retries; those inside the client are switched off.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline import telemetry, waiting
from pipeline.store.faults import Fault, explain

_PATIENCE_S = 60.0  # an endpoint that has answered before is probably restarting or busy: wait
_PATIENCE_NEVER_REACHED_S = 8.0  # an endpoint that has never answered is probably mistyped: fail soon
_MAX_PAUSE_S = 8.0

R = TypeVar("R")


class GaveUpError(Exception):
    """A request failed and is not tried again: the cause, and the number of tries."""

    def __init__(self, fault: Fault, num_tries: int) -> None:
        super().__init__(fault.cause)
        self.fault, self.num_tries = fault, num_tries


class Retries:
    """Runs the requests to one store. `has_been_read`: a read has succeeded, so the bucket exists."""

    def __init__(self) -> None:
        self._reached = self.has_been_read = False

    def run(self, request: Callable[[], R], what: str) -> R:
        """Run `request`. After transient faults, try again (full jitter) until it succeeds or patience ends.

        Raises:
            GaveUpError: the request failed and is not tried again. An exception that is our bug passes unchanged.
        """
        attempt, failing_since_s = 0, 0.0
        while True:
            attempt += 1
            try:
                result = request()
            except Exception as error:
                fault = explain(error)
                if fault is None:
                    raise
                telemetry.STORE_ERRORS.labels(kind=fault.kind).inc()
                now_s = time.monotonic()
                failing_since_s = failing_since_s or now_s
                pause_s = fault.retry_after_s + random.uniform(0, min(_MAX_PAUSE_S, 0.1 * 2**attempt))
                if not self._may_pass(fault) or now_s + pause_s > failing_since_s + self._patience_s(fault):
                    raise GaveUpError(fault, attempt) from None
                with waiting.phase(f"pause before try {attempt + 1} to {what}: {fault.cause}"):
                    time.sleep(pause_s)
            else:
                self._reached = True
                return result

    def _may_pass(self, fault: Fault) -> bool:
        return fault.transient or (fault.kind == "bucket" and self.has_been_read)

    def _patience_s(self, fault: Fault) -> float:
        never_reached = fault.kind == "connection" and not self._reached
        return _PATIENCE_NEVER_REACHED_S if never_reached else _PATIENCE_S
