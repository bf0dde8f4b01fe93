"""What all console scripts have in common: help, types of flags, `--json`, `--version`, and no heavy import before."""

import argparse
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.console.extras import EXTRAS
from support import console

PARSERS = {parser.prog: parser for script in console.SCRIPTS for parser in console.parsers(script)}
FLAGS = {f"{flag.command} {flag.name}": flag for parser in PARSERS.values() for flag in console.flags(parser)}
VALUES = {name: flag for name, flag in FLAGS.items() if flag.takes_value and not flag.action.choices}
TYPED = {name: flag for name, flag in VALUES.items() if flag.action.type}
HEAVY = {*EXTRAS, "webdataset"}
HOSTILE = (
    "", " ", ",", ":", "x", "-1", "-0", "+1", "1_0", "0x10", "1e3", "1.5.", "nan", "inf", "-inf", "1e999", "9" * 5000,
    "9" * 25 + "TB", "\u0663", "\u06f7", "\u00bd", "1 2", "\n", "0:0", "x" * 5000, "1x", "0x0",
)  # fmt: skip
NO_NUMBERS = ("", "x", "-1", "+1", "1_0", "nan", "inf", "-inf", "1e999", "9" * 5000, "\u0663", "\u06f7", "1 2", "1\n")

each = pytest.mark.parametrize
of_each_script = each("script", console.SCRIPTS)


def parsed(flag: console.Flag, text: str) -> Any:
    """What the type of a flag makes of a text; None where it refuses it."""
    kind: Callable[[str], Any] = flag.action.type  # type: ignore[assignment]
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        assert len(str(error)) < 300
        return None


@each("name", FLAGS)
def test_every_flag_says_what_it_is(name: str) -> None:
    assert FLAGS[name].action.help


@each("prog", PARSERS)
def test_help_shows_the_default_of_every_flag_that_has_one(prog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    text = PARSERS[prog].format_help()
    assert PARSERS[prog].description and "None" not in text
    for flag in console.flags(PARSERS[prog]):
        default = flag.action.default
        line = next(line for line in text.splitlines() if flag.action.help and flag.action.help in line)
        if not flag.action.required and default not in (None, []) and default is not False:
            assert f"(default: {default})" in line
        elif "(default: " in line:
            assert "(default: " in str(flag.action.help)


@each("name", VALUES)
def test_every_value_has_a_type_of_ours(name: str) -> None:
    assert VALUES[name].action.type not in (None, str, int, float, Path)


@each("name", TYPED)
def test_no_value_that_can_be_typed_ends_in_a_traceback(name: str) -> None:
    for text in HOSTILE:
        parsed(TYPED[name], text)


@each("name", [name for name, flag in TYPED.items() if isinstance(parsed(flag, "7"), int | float)])
def test_a_number_is_a_number_in_plain_digits(name: str) -> None:
    assert [text for text in NO_NUMBERS if parsed(TYPED[name], text) is not None] == []


@each("name", [name for name, flag in TYPED.items() if not isinstance(parsed(flag, "7"), int | float)])
def test_an_empty_word_is_no_value(name: str) -> None:
    """An unset variable of a shell script would else mean the current folder, or nothing at all."""
    assert parsed(TYPED[name], "") is None


@each("prog", sorted({flag.command for flag in FLAGS.values()}))
def test_whatever_is_reported_can_be_had_as_json(prog: str) -> None:
    assert f"{prog} --json" in FLAGS


@of_each_script
def test_help_comes_at_once_and_imports_nothing_heavy(script: str) -> None:
    module, _, function = console.SCRIPTS[script].partition(":")
    code = f"""
import atexit, sys, time
atexit.register(lambda: print(time.process_time(), *sys.modules))
sys.argv = [{script!r}, "--help"]
from {module} import {function}
{function}()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=console.REPOSITORY)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {script} "), done.stderr
    cpu_s, *modules = done.stdout.splitlines()[-1].split()
    assert float(cpu_s) < 1
    assert HEAVY & set(modules) == set()


@each("prog", PARSERS)
def test_every_command_has_help(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(*prog.split(), "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {prog} ")


@of_each_script
def test_help_lists_the_commands(script: str) -> None:
    root, *commands = console.parsers(script)
    assert all(f"\n    {command.prog.split()[-1]} " in root.format_help() for command in commands)


@of_each_script
def test_version(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(script, "--version") == 0
    assert capsys.readouterr().out == f"{script} {importlib.metadata.version('esvit-streaming')}\n"


@of_each_script
def test_completion_is_a_script_that_bash_takes(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert console.run(script, "--print-completion", "bash") == 0
    completion = capsys.readouterr().out
    assert script in completion
    subprocess.run(["bash", "-n"], input=completion, text=True, check=True)


def test_completion_without_its_package_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert console.run("shard-builder", "--print-completion", "bash") == 2
    assert "pip install shtab" in capsys.readouterr().err


def test_the_reference_of_flags_is_up_to_date() -> None:
    _, _, written = console.REFERENCE.read_text().partition(console.BEGIN)
    assert written == "\n" + console.reference(), "run .venv/bin/python tests/support/console.py"


def test_the_shard_builder_is_a_module_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.shard_builder", "stats", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path} holds no manifest.json")


def test_names_on_command_lines_are_those_of_the_tables() -> None:
    """The parsers repeat them, as the tables take seconds to import."""
    from esvit.commands import evaluate
    from esvit.eval import knn
    from pipeline.augment import EXECUTORS, RECIPES
    from pipeline.augment.executor import OUTPUT_TYPES
    from pipeline.bench import command, contestants

    assert command.CONTESTANTS == contestants.CONTESTANTS
    assert tuple(RECIPES) == command.RECIPES and tuple(OUTPUT_TYPES) == command.DTYPES
    assert evaluate.EXECUTORS == EXECUTORS
    assert evaluate.NEIGHBOURS == knn.NEIGHBOURS
