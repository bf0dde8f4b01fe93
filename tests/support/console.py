"""Run the console scripts inside a test's own process; their parsers; and the reference of their flags.

`.venv/bin/python tests/support/console.py` writes the reference into docs/commands.md.
"""

import argparse
import contextlib
import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs/commands.md"
BEGIN = "<!-- flags: written by tests/support/console.py -->\n"

SCRIPTS: dict[str, str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
"""Name -> `module:function`. Not from the installed metadata, which may be older."""


class Flag(NamedTuple):
    """One argument of one command."""

    command: str
    """The command as typed, script included."""
    action: argparse.Action

    @property
    def name(self) -> str:
        """The flag as typed."""
        return self.action.option_strings[-1] if self.action.option_strings else str(self.action.metavar)

    @property
    def takes_value(self) -> bool:
        """Whether the flag takes a word, or is a positional word."""
        return self.action.nargs != 0


class _Caught(Exception):
    """Carries the parser out of the running script."""


def main_of(script: str) -> Callable[[], None]:
    """The entry point of a console script."""
    module, _, function = SCRIPTS[script].partition(":")
    main: Callable[[], None] = getattr(importlib.import_module(module), function)
    return main


def run(*words: object) -> object:
    """Run a console script with these words, in this process; returns its exit status."""
    with mock.patch.object(sys, "argv", [str(word) for word in words]):
        try:
            main_of(str(words[0]))()
        except SystemExit as end:
            return end.code
    raise AssertionError("the script did not exit")


def parsers(script: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a console script, and of each of its commands."""

    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Caught(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", catch), contextlib.suppress(SystemExit):
        try:
            main_of(script)()
        except _Caught as caught:
            root = caught.args[0]
    yield root
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def flags(parser: argparse.ArgumentParser) -> list[Flag]:
    """The arguments of one command, without those that every script has."""
    everywhere = ("help", "version", "print_completion")
    own = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    return [Flag(parser.prog, action) for action in own if action.dest not in everywhere]


def reference() -> str:
    """Every command with its flags, in Markdown."""
    sections = []
    for script in SCRIPTS:
        for parser in parsers(script):
            rows = [_row(flag) for flag in flags(parser)]
            table = ["\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])] if rows else []
            sections += [f"### `{parser.prog}`", str(parser.description), *table]
    return "\n\n".join(sections) + "\n"


def _row(flag: Flag) -> str:
    action = flag.action
    value = f"{{{','.join(map(str, action.choices))}}}" if action.choices and not action.metavar else action.metavar
    typed = flag.name if not action.option_strings or not flag.takes_value else f"{flag.name} {value}"
    default = "required" if action.required else ""
    if not action.required and action.default is not None and action.default is not False and action.default != []:
        default = f"`{action.default}`"
    return f"| `{typed}` | {default} | {action.help} |"


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    REFERENCE.write_text(REFERENCE.read_text().partition(BEGIN)[0] + BEGIN + "\n" + reference())
