"""A process that ends when its parent ends: a rank of a run when its torchrun is killed, a builder with its rank.

torchrun ends its ranks when it ends. After SIGKILL it cannot: the ranks would train on, beside those of the next start.
So the kernel kills this process when its parent is gone (prctl, PR_SET_PDEATHSIG). Linux only.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded here: a child between fork and exec should load nothing
_PR_SET_PDEATHSIG = 1
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it for its ranks


def end_with_launcher() -> None:
    """In a rank that torchrun has started: end when torchrun ends. Elsewhere nothing changes.

    A launcher that died before this call is not noticed here: such a rank finds no process group to join.
    """
    launcher = os.getppid()
    if _OF_TORCHRUN in os.environ and not _is_of_torchrun(launcher):
        end_with(launcher)


def end_with(parent: int) -> None:
    """End this process, by SIGKILL, when its parent ends; at once if `parent` is no longer its parent."""
    if sys.platform != "linux":
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _is_of_torchrun(process: int) -> bool:
    """Whether torchrun started this process too: then it is a script around the rank, and passes signals on itself."""
    try:
        return f"{_OF_TORCHRUN}=".encode() in Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # another user's
        return False
