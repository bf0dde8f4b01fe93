"""The table of mutants: `table/*.txt`, one file per room, in a format like a diff.

    file pipeline/store/retry.py             the mutants that follow are of this file,
    test tests/unit/pipeline/store           and these tests have to notice them

    -0.1 * 2**attempt                        text that occurs once in the file
    +0.1 * attempt                           its replacement

    -            file.flush()                whole lines, deleted

    -range(0, 10)
    +range(10)
    ?equivalent                              why no test can notice

    statements esvit/optim.py                every statement of this file is deleted once;
    of clip_gradients                        or only those of some functions
    test tests/unit/esvit/test_optim.py

    -clip_gradients: @torch.no_grad()        of these statements
    ?equivalent                              no test can notice it

A snippet must occur exactly once in its file; otherwise it is an error. Who changes the line changes the row.
"""

from collections.abc import Iterator
from pathlib import Path

from mutants.deletions import deletions
from mutants.mutant import Change, Mutant, StaleMutantError

_FOLDER = Path(__file__).parent / "table"


def all_mutants() -> list[Mutant]:
    """All mutants, room by room.

    Raises:
        StaleMutantError: a line of the table is of no kind, or names a statement that does not exist.
    """
    return [mutant for path in sorted(_FOLDER.glob("*.txt")) for mutant in _read(path.read_text())]


def _read(text: str) -> Iterator[Mutant]:
    head: list[str] = []
    rows: list[list[str]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines and lines[0].startswith(("file ", "statements ")):
            yield from _section(head, rows)
            head, rows = lines, []
        elif lines:
            rows.append(lines)
    yield from _section(head, rows)


def _section(head: list[str], rows: list[list[str]]) -> Iterator[Mutant]:
    if not head:
        return
    (kind, file), tests = head[0].split(), tuple(_marked(head, "test "))
    if kind == "statements":
        survivors = {"\n".join(_marked(row, "-")): "\n".join(_marked(row, "?")) for row in rows}
        yield from deletions(file, tests, survivors, _marked(head, "of "))
        return
    for row in rows:
        if not all(line.startswith(("-", "+", "?")) for line in row):
            raise StaleMutantError(f"the table of {file} has a line of no kind: {row}")
        old, new = "\n".join(_marked(row, "-")), "\n".join(_marked(row, "+"))
        is_whole_lines = not any(line.startswith("+") for line in row)
        yield Change(file, tests, old + "\n" * is_whole_lines, new, " ".join(_marked(row, "?")))


def _marked(lines: list[str], mark: str) -> list[str]:
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]
