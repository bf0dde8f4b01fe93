"""Progress of a long command on standard error: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def progress(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields the function to call with the number of bytes that have been dealt with since the last call."""
    if not sys.stderr.isatty():
        yield _LineProgress(title, total_bytes).advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)


class _LineProgress:
    def __init__(self, title: str, total_bytes: int) -> None:
        self._title, self._total, self._done = title, total_bytes, 0
        self._started_s = self._said_s = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        now_s = time.monotonic()
        if now_s - self._said_s >= _LINE_EVERY_S:
            self._said_s = now_s
            rate = self._done / (now_s - self._started_s)
            left_s = (self._total - self._done) / rate if rate else 0.0
            sys.stderr.write(
                f"{self._title}: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, "
                f"{left_s / 60:.0f} min left\n"
            )
            sys.stderr.flush()
