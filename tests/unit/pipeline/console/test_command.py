"""How a command ends, and the types of its flags."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.console import command, ending
from pipeline.console.command import (
    CommandParser,
    add_command,
    add_json_flag,
    run_command,
    several_of,
    whole,
    write_json,
)
from pipeline.console.ending import EXIT_INTERRUPTED
from pipeline.console.extras import MissingPackageError, missing_package, optional_module
from pipeline.errors import UserError
from support.console import REFERENCE


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_result_is_the_exit_status(result: int | None, status: int) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(lambda: result)
    assert exit_info.value.code == status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such bucket"), command.EXIT_USER_ERROR, "error: no such bucket\n"),
        (
            ModuleNotFoundError("No module named 'torch._C'", name="torch._C"),
            command.EXIT_USER_ERROR,
            "error: this needs the package torch; run: pip install 'esvit-streaming[train]'\n",
        ),
        (
            MemoryError("Unable to allocate 1 TiB."),
            command.EXIT_USER_ERROR,
            "error: not enough memory, choose smaller batches or images (Unable to allocate 1 TiB)\n",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nframe 0"),
            command.EXIT_USER_ERROR,
            "error: not enough memory, choose smaller batches or images "
            "([enforce fail] DefaultCPUAllocator: can't allocate memory)\n",
        ),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted\n"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(lambda: raising(error))
    assert exit_info.value.code == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), RuntimeError("no memory"), ModuleNotFoundError("No module named 'x'", name="x")]
)
def test_our_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(lambda: raising(error))


@pytest.mark.parametrize("text", ["'line\\n' * 100_000", "'the end'"], ids=["much", "only what is flushed at the end"])
def test_a_reader_that_has_seen_enough_is_no_error(text: str) -> None:
    code = f"""
import sys
from pipeline.console.command import run_command
def main():
    sys.stdin.read()
    print({text})
run_command(main)
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
    assert writer.stdin and writer.stdout and writer.stderr
    writer.stdout.close()
    writer.stdin.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == command.EXIT_BROKEN_PIPE


def test_the_reference_has_every_exit_status() -> None:
    codes = {value for name, value in {**vars(command), **vars(ending)}.items() if name.startswith("EXIT_")}
    table = re.findall(r"^\| (\d+) \| ", REFERENCE.read_text(), re.MULTILINE)
    assert sorted(map(int, table)) == sorted(codes)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (whole(1), "007", 7),
        (command.port, "0", 0),
        (command.port, "65535", 65535),
        (command.seed, str(2**64 - 1), 2**64 - 1),
        (command.positive_number, "1.5e3", 1500.0),
        (command.positive_number, ".5", 0.5),
        (command.num_bytes, "256MB", 256_000_000),
        (command.num_bytes, "64kB", 64_000),
        (command.num_bytes, "1.5M", 1_500_000),
        (command.num_bytes, "10", 10),
        (command.num_bytes, "1 GiB", 2**30),
        (command.num_bytes, "2TB", 2 * 10**12),
        (several_of(["a", "b"]), "b,a", ["b", "a"]),
    ],
)
def test_values(kind: Callable[[str], Any], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        (whole(2), "1", "'1' is not a whole number from 2 on"),
        (whole(2), "", "'' is not a whole number from 2 on"),
        (whole(0), "2147483648", "2147483648 is too large, the largest is 2147483647"),
        (command.port, "65536", "65536 is too large, the largest is 65535"),
        (command.seed, str(2**64), "is too large"),
        (command.positive_number, "0", "'0' is not a number above 0"),
        (command.positive_number, "1_0", "'1_0' is not a number above 0"),
        (command.num_bytes, "0.1", "'0.1' is not a size; write for example 256MB or 1GiB"),
        (command.num_bytes, "9" * 30 + "TB", "is not a size"),
        (command.not_empty, " ", "it is empty"),
        (command.path, "", "it is empty"),
        (several_of(["a", "b"]), "a,c", "'c' is not one of a, b"),
        (several_of(["a", "b"]), "a,a", "'a,a' has the same name twice"),
    ],
)
def test_refusals(kind: Callable[[str], Any], text: str, sentence: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(sentence)):
        kind(text)


def test_a_value_too_long_to_read_is_shortened() -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        command.positive("9" * 5000)
    assert len(str(error.value)) < 100


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="tool")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = add_command(commands, "build", "write something", "its run")
    build.add_argument("--num-threads", type=command.positive, default=0, help="threads")
    build.add_argument("--name", required=True, help="a name")
    add_json_flag(build)
    return parser


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: the following arguments are required: COMMAND; see 'tool --help'\n"),
        (["build"], "error: the following arguments are required: --name; see 'tool build --help'\n"),
        (
            ["build", "--name", "x", "--threads", "2"],
            "error: unknown argument '--threads', did you mean --num-threads?; see 'tool build --help'\n",
        ),
        (
            ["build", "--name", "x", "--jso"],
            "error: unknown argument '--jso', did you mean --json?; see 'tool build --help'\n",
        ),
        (["build", "--name", "x", "more"], "error: unknown argument 'more'; see 'tool build --help'\n"),
    ],
)
def test_a_mistyped_command_line_is_one_line(
    words: list[str], line: str, parser: CommandParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parser.parse_args(words)
    assert exit_info.value.code == command.EXIT_USER_ERROR
    assert capsys.readouterr() == ("", line)


def test_help_has_the_defaults_that_there_are(parser: CommandParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.parse_args(["build", "--name", "x"]).run == "its run"
    with pytest.raises(SystemExit):
        parser.parse_args(["build", "--help"])
    text = capsys.readouterr().out
    assert "Write something." in text and "threads (default: 0)" in text and text.count("default") == 1


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"url": "a\nb", "problems": ()})
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out) == {"url": "a\nb", "problems": []}


def test_an_optional_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match=r"package pyarrow; run: pip install 'esvit-streaming\[parquet\]'"):
        optional_module("pyarrow.parquet")
    assert optional_module("json") is json and missing_package("nosuch") is None
