"""Progress of a long command on standard error: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_EVERY_S = 10.0
_BYTES = "bytes"

T = TypeVar("T")


@contextlib.contextmanager
def progress(title: str, total: float | None, unit: str = _BYTES) -> Iterator[Callable[[float], None]]:
    """Yields the function to call with how many of `unit` have been dealt with since the last call.

    Args:
        title: What is being done.
        total: How much there is to do; None where that is not known.
        unit: Of `total`, in the plural. Bytes are shown as MB.
    """
    if not sys.stderr.isatty():
        yield _LineProgress(title, total, unit).advance
        return
    amounts = (DownloadColumn(), TransferSpeedColumn()) if unit == _BYTES else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount: bar.advance(task, amount)


def counted(items: Iterable[T], title: str, total: float | None, unit: str) -> Iterator[T]:
    """The items, with their progress."""
    with progress(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


class _LineProgress:
    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._scale, self._unit = (1e-6, "MB") if unit == _BYTES else (1.0, unit)
        self._started_s = self._said_s = time.monotonic()

    def advance(self, amount: float) -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._said_s >= _LINE_EVERY_S:
            self._said_s = now_s
            sys.stderr.write(self._line(now_s - self._started_s) + "\n")
            sys.stderr.flush()

    def _line(self, seconds: float) -> str:
        rate, done = self._done / seconds, self._done * self._scale
        speed = f"{rate * self._scale:,.1f} {self._unit}/s"
        if self._total is None:
            return f"{self._title}: {done:,.0f} {self._unit}, {speed}"
        left_s = max(0.0, self._total - self._done) / rate if rate else 0.0
        total = self._total * self._scale
        return f"{self._title}: {done:,.0f} of {total:,.0f} {self._unit}, {speed}, {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
