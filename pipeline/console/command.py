"""The parts that all console scripts share: parser, exit codes, JSON output, and types of flags.

A script parses its flags before it imports heavy modules. So `--help` and messages about flags come at once, and a
base install, which has no torch, can say what to install. docs/commands.md is the reference for users.
"""

import argparse
import importlib.metadata
import io
import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from pipeline.console.ending import EXIT_INTERRUPTED, ending_soon
from pipeline.console.extras import missing_package
from pipeline.errors import UserError
from pipeline.nearest import nearest

EXIT_OK = 0
EXIT_DATA_AT_FAULT = 1
"""The command ran and found a fault in the data."""
EXIT_USER_ERROR = 2
"""A flag, a config, a path or a store is wrong; the message says what to do."""
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
"""The subcommands of a script."""
Flags: TypeAlias = "argparse._ActionsContainer"
"""A parser, or a group of flags of a parser."""

DEVICES = ("auto", "cpu", "cuda")
"""The values of `--device`; "auto" is a GPU if there is one."""
CACHE_DIR = "~/.cache/esvit-streaming"
"""The default of `--cache-dir` and `data.stream.cache.folder`."""

_SHELLS = ("bash", "zsh", "fish", "tcsh")
_LARGEST = 2**31 - 1
_LARGEST_PORT = 65535
_LONGEST_SIDE = 65535  # of a JPEG
_MOST_AT_ONCE = 4096
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{letter}I": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)}


class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if action.required or default is None or default is False or default in ([], argparse.SUPPRESS):
            return action.help
        return f"{action.help} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A parser that shows every default in its help, and answers a mistake with one line and exit status 2.

    Flags cannot be abbreviated, so that a new flag never breaks an old script.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with the message and a pointer to `--help`."""
        self.exit(EXIT_USER_ERROR, f"error: {message}; see '{self.prog} --help'\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but refuse unknown arguments here: only the parser of a subcommand knows its flags."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = nearest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unknown argument {unknown[0]!r}" + (f", did you mean {close[0]}?" if close else ""))
        return known, unknown


class _PrintCompletion(argparse.Action):
    """Prints the shell's completion script for the command, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, shell: Any, _flag: Any = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.error("this needs the package shtab; run: pip install shtab")
        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        parser.exit()


def new_parser(prog: str, description: str) -> CommandParser:
    """The parser of a console script, with `--version` and `--print-completion`."""
    parser = CommandParser(prog=prog, description=description)
    version = f"%(prog)s {importlib.metadata.version('esvit-streaming')}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=_SHELLS,
        default=argparse.SUPPRESS,
        help="print the completion script for a shell and exit",
    )
    return parser


def add_command(commands: Commands, name: str, summary: str, run: object) -> CommandParser:
    """Add a subcommand to `new_parser(...).add_subparsers()`; the parsed arguments have the attribute `run`."""
    command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.set_defaults(run=run)
    return command


def add_json_flag(parser: Flags) -> None:
    """Add `--json`, for `write_json`."""
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def write_json(report: Mapping[str, Any]) -> None:
    """Print the report of a command for programs: one JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(report) + "\n")


def run_command(main: Callable[[], int | None]) -> None:
    """Run the body of a console script and exit: 0 or its result, 2 on a `UserError`, 130 on Ctrl-C.

    Ctrl-C ends it within 5 s, a second Ctrl-C at once, see `pipeline.console.ending`.
    """
    with ending_soon():
        _run_command(main)


def _run_command(main: Callable[[], int | None]) -> NoReturn:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be UTF-8
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        missing = missing_package(error.name or "")
        if missing is None:
            raise
        _fail(missing)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        _fail(f"not enough memory, choose smaller batches or images ({reason or 'no details'})")
    except BrokenPipeError:  # the reader of our output, for example `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status or EXIT_OK)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. torch has its own error for it, and cannot be imported here."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _fail(error: object) -> NoReturn:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(EXIT_USER_ERROR)


def whole(least: int, most: int = _LARGEST) -> Callable[[str], int]:
    """The flag type of whole numbers from `least` to `most`, written with the digits 0 to 9."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,30}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from {least} on")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"{text} is too large, the largest is {most}")
        return int(text)

    return parse


positive = whole(1)
not_negative = whole(0)
seed = whole(0, 2**64 - 1)
port = whole(0, _LARGEST_PORT)
"""A TCP port; 0 is any free port."""
pixels = whole(1, _LONGEST_SIDE)
"""A side of an image."""
num_at_once = whole(1, _MOST_AT_ONCE)
"""A number of threads or processes."""


def quoted(text: str) -> str:
    """The text in quotes, for a message; the middle of a long text is left out."""
    return reprlib.repr(text)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    is_number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.ASCII | re.IGNORECASE)
    number = float(text) if is_number else math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number above 0")
    return number


def num_bytes(text: str) -> int:
    """A size: 256MB, 1GiB or a plain number of bytes."""
    match = re.fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([KMGT]I?)?B?", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not 1 <= size < 2**63:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a size; write for example 256MB or 1GiB")
    return size


def not_empty(text: str) -> str:
    """Any text that is not empty: an empty variable of a shell script must not mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def path(text: str) -> Path:
    """A local file or folder."""
    return Path(not_empty(text))


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """One word of `choices`, for lists that are too long for argparse's own message."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not one of {', '.join(choices)}")
        return text

    return parse


def several_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Different words of `choices`, separated by commas."""
    parse = one_of(choices)

    def parse_all(text: str) -> list[str]:
        words = [parse(word) for word in text.split(",")]
        if len(set(words)) < len(words):
            raise argparse.ArgumentTypeError(f"{quoted(text)} has the same name twice")
        return words

    return parse_all
