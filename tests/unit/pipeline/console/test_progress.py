"""Progress of long work: a bar on a terminal, lines in a log."""

import io
import re
import sys

import pytest

from pipeline.console import progress as module
from pipeline.console.progress import counted, progress


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show every step."""
    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(module, "_BAR_EVERY_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_log_gets_lines_with_total_rate_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("writing shards", 30_000_000) as advance:
        advance(10_000_000)
        advance(20_000_000)
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert re.fullmatch(r"writing shards: 10 of 30 MB, [\d,.]+ MB/s, \d+ min \d\d s left", first)
    assert last.startswith("writing shards: 30 of 30 MB, ") and last.endswith(", 0 min 00 s left")
    assert out == ""


@pytest.mark.usefixtures("at_once")
def test_what_has_no_known_end_has_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted("ab", "listing", None, "images")) == ["a", "b"]
    assert re.fullmatch(r"listing: 1 images, [\d,.]+ images/s", capsys.readouterr().err.splitlines()[0])


def test_a_log_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted(range(1000), "listing", 1000, "images")) == list(range(1000))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("unit", ["bytes", "rounds"])
@pytest.mark.usefixtures("at_once")
def test_a_terminal_gets_a_bar_that_goes_at_the_end(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("measuring", 8, unit) as advance:
        advance(4)
        assert "measuring" in terminal.getvalue() and "4/8" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 min 00 s"), (61, "1 min 01 s"), (3 * 3600 + 125, "3 h 02 min"), (-1, "0 min 00 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert module._duration(seconds) == text
