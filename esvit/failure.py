"""One failing rank ends all ranks, and each says which rank failed and why.

The rank that fails leaves its cause in the store of the process group, for torchrun in its error file, and breaks its
connections. The other ranks, which wait for it in a collective call, notice that at once and look up the cause. A rank
whose cleaning up takes long is ended after `_END_WITHIN_S`.
"""

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipeline.console.ending import EXIT_INTERRUPTED
from pipeline.errors import UserError

_KEY = "esvit/failure"
_LOOK_UP_S, _ASK_EVERY_S = 2.0, 0.1
_LET_IT_SPEAK_S = 2.0  # so that torchrun sees the rank that failed before those that follow it
_END_WITHIN_S = 20.0
_LOST = re.compile("connection (was )?(closed|reset|refused)|broken pipe|socket (closed|timeout)|remote process", re.I)
_store: Any = None  # torch exports no type of it


class RefusedElsewhereError(UserError):
    """Another rank cannot start or go on, so this rank does not either."""


class LostRankError(UserError):
    """Another rank has failed, so this rank cannot go on."""


def use(store: Any) -> None:
    """Tell and look up causes in this store, which all ranks share. To be called before they join their group."""
    global _store
    _store = store
    store.delete_key(_KEY)  # of an earlier start, whose ranks torchrun has started again


def leave() -> None:
    """Leave the process group. The others notice it, if they still wait for this rank."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def ending_together(rank: int, size: int) -> Iterator[None]:
    """A block of one of several ranks: if it fails, all ranks end. May be nested.

    Raises:
        LostRankError: another rank has failed. `SystemExit` if a signal has ended it.
    """
    try:
        yield
    except BaseException as error:
        if size == 1 or not dist.is_initialized():  # or the inner block has done it
            raise
        following = _is_following(error)
        found = _look_up(rank) if following else error
        _end_later(found)
        if following:
            leave()
            if isinstance(found, LostRankError):
                time.sleep(_LET_IT_SPEAK_S)
            raise found from None
        _tell(rank, error)
        leave()
        raise


def _is_following(error: BaseException) -> bool:
    if isinstance(error, RefusedElsewhereError):
        return True
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def _look_up(rank: int) -> BaseException:
    """The exception of a rank that ends because another one does."""
    told: dict[str, Any] = {}
    until_s = time.monotonic() + _LOOK_UP_S
    with suppress(RuntimeError):  # the rank that kept the store has ended
        while not told and time.monotonic() < until_s:
            if _store.check([_KEY]):
                told = json.loads(_store.get(_KEY))
            time.sleep(_ASK_EVERY_S)
    if not told:
        return LostRankError(
            f"rank {rank} ends because another rank has ended without a message, perhaps killed for want of memory; "
            "see what its launcher says"
        )
    if told["status"] is not None:
        sys.stderr.write(f"rank {rank} ends with rank {told['rank']}: {told['cause']}\n")
        return SystemExit(told["status"])
    return LostRankError(f"rank {rank} ends because rank {told['rank']} failed: {told['cause']}")


def _tell(rank: int, error: BaseException) -> None:
    """Leave the cause for the other ranks, unless another rank was first, and for torchrun."""
    cause = _sentence(error)
    status = _status(error) if isinstance(error, SystemExit | KeyboardInterrupt) else None
    with suppress(RuntimeError):
        _store.compare_set(_KEY, "", json.dumps({"rank": rank, "cause": cause, "status": status}))
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            said = {"py_callstack": cause, "timestamp": str(int(time.time()))}
            Path(file).write_text(json.dumps({"message": {"message": cause, "extraInfo": said}}))


def _sentence(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "a signal has stopped it"
    return " ".join(traceback.format_exception_only(error)[-1].split())


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 2


def _end_later(error: BaseException) -> None:
    """End this process if it has not ended by itself after `_END_WITHIN_S`."""

    def end() -> None:
        with suppress(OSError):  # not through a stream: the main thread may hold its lock
            os.write(2, f"error: {_sentence(error)}\n".encode())
        os._exit(_status(error))

    timer = threading.Timer(_END_WITHIN_S, end)
    timer.daemon = True
    timer.start()
