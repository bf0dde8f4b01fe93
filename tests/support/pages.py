"""Links, headings, code blocks and command lines in the pages of this repository."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md") for path in REPOSITORY.glob(pattern))
CONFIGS = sorted(path for path in REPOSITORY.glob("configs/**/*") if path.suffix in (".yaml", ".yml", ".sbatch"))

MODULES = {
    "esvit.train": "esvit-train",
    "esvit.evaluate": "esvit-eval",
    "tools.shard_builder": "shard-builder",
}
"""Module after `-m` -> console script."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


@dataclass(frozen=True)
class CommandLine:
    """One call of one of our console scripts."""

    script: str
    words: tuple[str, ...]
    """Words after the script."""
    place: str
    """Page and line, for messages."""
    is_whole: bool
    """False for a command quoted in a sentence, which may be incomplete."""


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    text: str
    section: str
    """The heading above it."""


def name(path: Path) -> str:
    """A file of this repository, as people write it."""
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """The blocks of code of a page, in order; of one language if it is given."""
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text[: match.start()]), re.MULTILINE)
        found.append(Block(match[1], match[2], headings[-1] if headings else ""))
    return [block for block in found if language in (None, block.language)]


def links(path: Path) -> list[str]:
    """Targets of the links and pictures of a page, in order."""
    return _LINK.findall(_FENCE.sub("", path.read_text()))


def anchors(path: Path) -> set[str]:
    """The headings of a page as GitHub names them in addresses."""
    titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def command_lines() -> Iterator[CommandLine]:
    """Every call of one of our scripts in pages, configs and job files."""
    for path in PAGES:
        for block in blocks(path):
            yield from _calls(block.text, name(path), is_whole=True)
        for code in _INLINE.findall(_FENCE.sub("", path.read_text())):
            yield from _calls(code, name(path), is_whole=False)
    for path in CONFIGS:
        uncommented = re.sub(r"^# ?(\w+: )?", "", path.read_text(), flags=re.MULTILINE)
        yield from _calls(uncommented, name(path), is_whole=True)


def _calls(text: str, place: str, is_whole: bool) -> Iterator[CommandLine]:
    for line in re.sub(r"\\\n", " ", text).splitlines():
        plain = re.sub(r"\$\(\(.*?\)\)", "7", line)  # arithmetic of a shell
        try:
            words = shlex.split(plain, comments=True)
        except ValueError:  # prose, with an apostrophe
            continue
        for segment in _segments(words):
            yield from _call(segment, place, is_whole)


def _segments(words: list[str]) -> Iterator[list[str]]:
    """The words between the operators of a shell."""
    segment: list[str] = []
    for word in [*words, ";"]:
        if word in _OPERATORS:
            yield segment
            segment = []
        else:
            segment.append(word)


def _call(words: list[str], place: str, is_whole: bool) -> Iterator[CommandLine]:
    """The call in `words`; torchrun, docker or environment variables may precede the script."""
    for position, word in enumerate(words[:-1]):
        if word in MODULES.values() or word in ("esvit-bench", "pipeline-bench"):
            yield CommandLine(word, tuple(words[position + 1 :]), place, is_whole)
            return
        if word == "-m" and words[position + 1] in MODULES and len(words) > position + 2:
            yield CommandLine(MODULES[words[position + 1]], tuple(words[position + 2 :]), place, is_whole)
            return
