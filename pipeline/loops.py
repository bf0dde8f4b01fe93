"""The guard of a stream or loader: one loop at a time, in the process that opened it.

A stream has one position. Two loops in turn, or two processes with a copy each, would silently lose or repeat samples,
so they are refused.
"""

import os
from typing import NoReturn

from pipeline.errors import UserError


class IterationError(UserError):
    """A stream or loader is iterated, copied or used in a way that would lose or repeat samples."""


class Loops:
    """The loops over one stream or loader. Only the newest loop may continue. `thing` is its name in messages."""

    def __init__(self, thing: str) -> None:
        self._thing, self._pid, self._newest = thing, os.getpid(), 0

    def begin(self) -> int:
        """Register a new loop, now the newest. Returns its number, for `check`.

        Raises:
            IterationError: this is not the process that opened the thing.
        """
        if os.getpid() != self._pid:
            raise IterationError(
                f"this {self._thing} was opened in another process; it reads and decodes in threads, so use "
                "num_workers=0, or open one in each process with its own rank"
            )
        self._newest += 1
        return self._newest

    def end_all(self) -> None:
        """Refuse from now on every loop that has begun."""
        self._newest += 1

    def check(self, loop: int) -> None:
        """Called before a loop continues.

        Raises:
            IterationError: a newer loop has begun, or a state was loaded.
        """
        if loop != self._newest:
            raise IterationError(
                f"this loop over the {self._thing} has ended, because another loop began or a state was loaded; "
                f"iterate over a {self._thing} in one place at a time, or open a second {self._thing}"
            )

    def refuse_copy(self) -> NoReturn:
        """Called for pickle and copy; always raises `IterationError`."""
        raise IterationError(
            f"a {self._thing} holds threads and open files, so it cannot be pickled or copied; "
            "open one in each process with its own rank, and send its state_dict"
        )
