"""Who may iterate over a stream or a loader: one loop at a time, in the process that opened it.

A stream has one position. Two loops that took turns, or two processes with a copy each, would lose or repeat samples
without a word, so they are refused.
"""

import os
from typing import NoReturn

from pipeline.errors import UserError


class IterationError(UserError):
    """A stream or loader is iterated, copied or used in a way that would lose or repeat samples."""


class Loops:
    """The loops over one `thing`, a word for the messages. The newest loop goes on; an older one is refused."""

    def __init__(self, thing: str) -> None:
        self._thing, self._pid, self._newest = thing, os.getpid(), 0

    def begin(self) -> int:
        """A loop begins: from now on it is the newest. Its number is for `check`.

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
        """Loops that have begun are refused from now on."""
        self._newest += 1

    def check(self, loop: int) -> None:
        """Before a loop goes on.

        Raises:
            IterationError: it is not the newest.
        """
        if loop != self._newest:
            raise IterationError(
                f"this loop over the {self._thing} is over, because another one began or a state was loaded since; "
                f"iterate over a {self._thing} in one place at a time, or open a second one"
            )

    def refuse_copy(self) -> NoReturn:
        """The answer to pickle and copy."""
        raise IterationError(
            f"a {self._thing} cannot be pickled or copied, for it holds threads and open files; "
            "open one in each process with its own rank, and hand over its state_dict"
        )
