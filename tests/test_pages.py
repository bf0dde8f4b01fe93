"""README and documentation: links lead somewhere, commands are those of the parsers, every room is named."""

import argparse
import contextlib
import re
from pathlib import Path

import pytest

from support.console import parsers
from support.pages import MODULES, PAGES, REPOSITORY, CommandLine, anchors, blocks, command_lines, links, name

README = REPOSITORY / "README.md"
INDEX = REPOSITORY / "docs/README.md"
SCRIPTS = (*MODULES.values(), "esvit-bench", "pipeline-bench")
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
    parser = own.get(f"{command.script} {command.words[0]}", own[command.script])
    flags = {word.partition("=")[0] for word in command.words if word.startswith("--")}
    assert flags <= {flag for action in parser._actions for flag in action.option_strings}


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 50
    assert {command.script for command in COMMANDS} == set(SCRIPTS)


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
    house = README.read_text().partition("## The house")[2]
    named = set(re.findall(r"`([\w./]+)`", house))
    rooms = [path for path in (REPOSITORY / package).iterdir() if not path.name.startswith("__")]
    expected = {
        f"{package}/{path.name}" + ("/" if path.is_dir() else "")
        for path in rooms
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert expected - named == set()


def _asks_for_help(command: CommandLine) -> bool:
    return bool({"--help", "--version", "--print-completion"} & set(command.words))
