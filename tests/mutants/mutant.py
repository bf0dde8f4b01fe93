"""A mutant: one file of the product with one place changed, and the tests that have to notice."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]


class StaleMutantError(Exception):
    """The source has changed, and the mutant does not fit it any more."""


class Mutant(Protocol):
    """One change of one file of the product."""

    @property
    def file(self) -> str:
        """Path relative to the repository."""

    @property
    def tests(self) -> tuple[str, ...]:
        """Arguments of pytest."""

    @property
    def survives(self) -> str:
        """Why no test can notice the change; empty where a test must."""

    def applied(self, source: str) -> str:
        """The changed source of the file. Raises `StaleMutantError`."""


@dataclass(frozen=True)
class Change:
    """Replace `old`, which occurs once in the file, by `new`."""

    file: str
    tests: tuple[str, ...]
    old: str
    new: str
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {_brief(self.old)} -> {_brief(self.new)}"

    def applied(self, source: str) -> str:
        """See `Mutant`."""
        if (count := source.count(self.old)) != 1:
            raise StaleMutantError(f"{self.file} has the snippet {count} times, not once: {self.old!r}")
        changed = source.replace(self.old, self.new)
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise StaleMutantError(f"{self}: is no Python any more: {error}") from None
        return changed


def _brief(text: str) -> str:
    return " ".join(text.split()) or "nothing"
