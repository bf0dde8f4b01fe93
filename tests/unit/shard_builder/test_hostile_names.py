"""Names that steer a terminal or a page are escaped at every sight: tables, lines, errors, progress, pages, sheets."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from pipeline.console.command import run_command
from pipeline.console.lines import write_line, write_note
from pipeline.console.progress import progress
from pipeline.console.tables import print_table
from pipeline.format.manifest import MANIFEST_NAME
from pipeline.store import Store
from support.command import Run
from support.shards import jpegs, write_shards

NAMES = (
    "[bold]a[/bold]",
    "b[/nope]",
    "\x1b[2J\x1b]0;c\x07",
    "d\u202egnp",
    "e\nok: 9 shards",
    ":smile:",
    "<b onload=x>&amp;",
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    manifest = write_shards(tmp_path / "in", jpegs(len(NAMES)))
    hostile = manifest.replace(shards=manifest.shards, classes=NAMES, dataset=NAMES[2], split=NAMES[1])
    Store(tmp_path / "in").put(MANIFEST_NAME, hostile.to_bytes())
    return tmp_path / "in"


def assert_plain(text: str) -> None:
    """No line has a character that steers a terminal, and no line came out of a name."""
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
    assert not any(line.startswith("ok: 9 shards") for line in lines)


def test_commands_show_names_as_text(shards: Path, run: Run) -> None:
    for command in ("stats", "show"):
        text = run(command, shards)
        assert_plain(text)
        for name in ("[bold]a[/bold]", "b[/nope]", r"\x1b[2J", r"d\u202egnp", ":smile:"):
            assert name in text
    for command in ("stats", "show"):
        assert_plain(run(command, shards, "--json"))


def test_differences_and_problems_are_text(shards: Path, run: Run, tmp_path: Path) -> None:
    write_shards(tmp_path / "other", jpegs(len(NAMES)))
    assert_plain(run("diff", shards, tmp_path / "other", status=1))
    data = bytearray((shards / "tiny-000000.tar").read_bytes())
    data[600] ^= 1
    (shards / "tiny-000000.tar").write_bytes(data)
    assert_plain(run("verify", shards, status=1))


def test_a_page_shows_names_as_text(shards: Path, run: Run, tmp_path: Path) -> None:
    run("stats", shards, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b onload" not in page and "&lt;b onload=x&gt;&amp;amp;" in page
    assert not re.search("[\x1b\x07\u202e]", page) and r"\x1b[2J" in page


def test_a_sheet_takes_names_with_newlines(shards: Path, run: Run, tmp_path: Path) -> None:
    run("show", shards, "--output", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_tables_lines_and_notes_are_plain(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name, "x", title=name)
    table.add_row(name, "1")
    print_table(table)
    write_line(name)
    write_note(name)
    out, err = capsys.readouterr()
    assert_plain(err)
    assert out.splitlines()[-1] == err.splitlines()[0] != "" and len(err.splitlines()) == 1
    assert all(line.isprintable() for line in out.splitlines())


def test_a_cell_of_ours_may_have_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("x")
    table.add_row("one\ntwo")
    print_table(table)
    assert [line.strip("│ ") for line in capsys.readouterr().out.splitlines()][3:5] == ["one", "two"]


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_is_plain(
    on_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.console import progress as module

    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    with progress("[/x]\x1b]0;t\x07", 2, "items") as advance:
        advance(2)
    err = capsys.readouterr().err
    assert "\x1b]0" not in err and "[/x]" in err


@pytest.mark.parametrize("words", [["stats", "no\x1b[2J"], ["stats", "x", "\x1b]0;t\x07"], ["show", "s3://K:HUSH@b"]])
def test_error_messages_are_plain(words: list[str], run: Run) -> None:
    message = run(*words, status=2)
    assert_plain(message)
    assert "HUSH" not in message and message.count("\n") == 1


def status_of(main: Callable[[], Any]) -> object:
    with contextlib.suppress(AssertionError):
        try:
            run_command(main)
        except SystemExit as end:
            return end.code
    return None


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def main() -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    assert status_of(main) == 2
    assert capsys.readouterr().err == "error: cannot write the output: No space left on device\n"
    with pytest.raises(FileNotFoundError):  # no fault of a disk, so perhaps ours
        run_command(lambda: int((tmp_path / "nothing").read_text()))
