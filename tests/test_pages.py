"""README and documentation: links lead somewhere, commands are those of the parsers, every room is named."""

import argparse
import contextlib
import re
from pathlib import Path

import pytest

from esvit.training import presets
from esvit.training.config import TrainConfig
from pipeline.config.keys import keys_of
from support.console import parsers
from support.pages import CONFIGS, MODULES, PAGES, REPOSITORY, CommandLine, anchors, blocks, command_lines, links, name

README = REPOSITORY / "README.md"
INDEX = REPOSITORY / "docs/README.md"
SCRIPTS = (*MODULES.values(), "esvit-bench", "pipeline-bench")
SOURCES = sorted(path for top in ("pipeline", "esvit", "tools") for path in (REPOSITORY / top).rglob("*.py"))
KEYS = {"a.b", *(key.name for key in keys_of(TrainConfig))}  # a.b: of no config in particular
COMMANDS = list(dict.fromkeys(command_lines()))
LOOSE = re.compile(r"\[|…|\.\.\.")  # a synopsis, or a command of which a part is left out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, argparse.ArgumentParser]]:
    """Of each script its parsers, by what is typed: "shard-builder", "shard-builder build"."""
    return {script: {parser.prog: parser for parser in parsers(script)} for script in SCRIPTS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place}: {command.script}")
def test_every_command_that_is_written_down_is_one_that_the_parser_takes(
    command: CommandLine, known: dict[str, dict[str, argparse.ArgumentParser]], capsys: pytest.CaptureFixture[str]
) -> None:
    own = known[command.script]
    if command.is_whole and not LOOSE.search(" ".join(command.words)):
        with pytest.raises(SystemExit) if _asks_for_help(command) else contextlib.nullcontext():
            own[command.script].parse_args(list(command.words))
        assert capsys.readouterr().err == ""
        return
    first = command.words[0]
    any_of = list(own.values()) if first.startswith("-") or len(own) == 1 else [own[f"{command.script} {first}"]]
    flags = {word.partition("=")[0] for word in command.words if word.startswith("--")}
    assert flags <= {flag for parser in any_of for action in parser._actions for flag in action.option_strings}


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 50
    assert {command.script for command in COMMANDS} == set(SCRIPTS)


@pytest.mark.parametrize("path", [*PAGES, *CONFIGS, *SOURCES], ids=name)
def test_every_setting_that_is_written_down_is_a_key_and_every_preset_is_there(path: Path) -> None:
    text = path.read_text()
    assert {key for key in re.findall(r"--set ['\"]?([a-z][\w.]*)=", text) if key not in KEYS} == set()
    given = set(re.findall(r"--config ([a-z]\w*)(?![\w./-])", text))
    assert given - set(presets.names()) == set()


def test_the_index_names_every_page_of_the_documentation_once() -> None:
    targets = [link for link in links(INDEX) if not link.startswith("..")]
    assert len(set(targets)) == len(targets)
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {INDEX.name}
    assert pages == {target for target in targets if target.endswith(".md") and "/" not in target}


def test_each_way_of_the_readme_is_ten_lines_at_most() -> None:
    ways = [block for block in blocks(README) if block.language]
    assert [block.language for block in ways] == ["bash", "bash", "python"]
    assert all(len(block.text.splitlines()) <= 10 for block in ways)


def test_the_first_screen_has_the_install_and_the_two_commands() -> None:
    first = "\n".join(README.read_text().splitlines()[:16])
    assert all(command in first for command in ("pip install", "make demo", "make test"))


@pytest.mark.parametrize("package", ["pipeline", "esvit", "tools", "tools/shard_builder"])
def test_the_readme_names_every_room(package: str) -> None:
    top, _, below = package.partition("/")
    section = re.split(r"^### ", README.read_text().partition(f"### `{top}/`")[2], flags=re.MULTILINE)[0]
    named = {
        room for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for room in re.findall(r"`(.*?)`", row)
    }
    rooms = {path.name for path in (REPOSITORY / package).glob("*.py") if not path.name.startswith("__")}
    rooms |= {f"{path.parent.name}/" for path in (REPOSITORY / package).glob("*/__init__.py")}
    expected = {f"{below}/{room}" if below else room for room in rooms}
    assert expected - named - {"shard_builder/"} == set()  # whose rooms are named themselves
    assert [room for room in named if not (REPOSITORY / top / room).exists()] == []


def _asks_for_help(command: CommandLine) -> bool:
    return bool({"--help", "--version", "--print-completion"} & set(command.words))
