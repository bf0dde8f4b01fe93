"""Progress of a long command on standard error: a bar on a terminal, a line every 10 s in a log.

There is no thread that draws, since it would disturb measurements.
"""

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
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pipeline.printable import printable

_BAR_EVERY_S, _LINE_EVERY_S = 0.1, 10.0
_BYTES = "bytes"

T = TypeVar("T")


@contextlib.contextmanager
def progress(title: str, total: float | None, unit: str = _BYTES) -> Iterator[Callable[[float], None]]:
    """Yields a function to call with the amount done since its last call.

    Args:
        title: Name of the work.
        total: Amount of work; None if unknown.
        unit: Unit of the amounts, in the plural. Bytes are shown as MB.
    """
    title = printable(title)
    if sys.stderr.isatty():
        with _bar(title, total, unit) as show:
            yield _Counter(show, _BAR_EVERY_S).advance
    else:
        yield _Counter(_Line(title, total, unit), _LINE_EVERY_S).advance


def counted(items: Iterable[T], title: str, total: float | None, unit: str) -> Iterator[T]:
    """Yields the items and shows progress."""
    with progress(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


class _Counter:
    """Adds up amounts, and shows the sum at most once per `every_s` seconds."""

    def __init__(self, show: Callable[[float], None], every_s: float) -> None:
        self._show, self._every_s, self._done, self._shown_s = show, every_s, 0.0, time.monotonic()

    def advance(self, amount: float) -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._shown_s >= self._every_s:
            self._shown_s = now_s
            self._show(self._done)


@contextlib.contextmanager
def _bar(title: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    """Yields a function that draws the amount done; the bar disappears at the end of the block."""
    amounts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(unit))
    if unit == _BYTES:
        amounts = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amounts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total)
        bar.refresh()
        yield lambda done: bar.update(task, completed=done, refresh=True)


class _Line:
    """Writes the amount done, the total, the rate, and the time left."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self._title, self._total, self._started_s = title, total, time.monotonic()
        self._scale, self._unit = (1e6, "MB") if unit == _BYTES else (1.0, unit)

    def __call__(self, done: float) -> None:
        rate = done / (time.monotonic() - self._started_s)
        of_total = left = ""
        if self._total is not None:
            of_total = f" of {self._total / self._scale:,.0f}"
            left = f", {_duration((self._total - done) / rate)} left" if rate else ""
        amount = f"{done / self._scale:,.0f}{of_total} {self._unit}"
        sys.stderr.write(f"{self._title}: {amount}, {rate / self._scale:,.1f} {self._unit}/s{left}\n")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
