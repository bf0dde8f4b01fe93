"""Mutants that lack one statement: a test must notice every statement of the training step.

Deleted, one at a time, in each function: every statement except docstrings and bare annotations; every decorator; the
header of every `with` and `if`, so that its block always runs.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mutants.mutant import ROOT, StaleMutantError

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Deletion:
    """The lines `first` to `last` of a file, from 1, become `new`."""

    file: str
    tests: tuple[str, ...]
    name: str
    first: int
    last: int
    new: str
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.name} deleted"

    def applied(self, source: str) -> str:
        """See `Mutant`."""
        lines = source.splitlines()
        lines[self.first - 1 : self.last] = [self.new]
        return "\n".join(lines) + "\n"


def deletions(
    file: str, tests: Sequence[str], survivors: Mapping[str, str], functions: Sequence[str] = ()
) -> list[Deletion]:
    """All deletions in one file, or in `functions` only. `survivors`: by name, why no test can notice."""
    source = (ROOT / file).read_text()
    found = [
        Deletion(file, tuple(tests), f"{function}: {name}", first, last, new, survivors.get(f"{function}: {name}", ""))
        for function, node in _functions(ast.parse(source))
        if not functions or function in functions
        for name, first, last, new in _of_function(node, source.splitlines())
    ]
    if unknown := survivors.keys() - {deletion.name for deletion in found}:
        raise StaleMutantError(f"{file} has no statement {min(unknown)!r}")
    return found


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, Function):
            yield f"{prefix}{node.name}", node


def _of_function(function: Function, lines: Sequence[str]) -> Iterator[tuple[str, int, int, str]]:
    """Name, first line, last line and replacement of each mutant."""
    for decorator in function.decorator_list:
        last = decorator.end_lineno or decorator.lineno
        yield lines[decorator.lineno - 1].strip(), decorator.lineno, last, ""
    for node in ast.walk(function):
        if not isinstance(node, ast.stmt) or node is function or _says_nothing(node):
            continue
        indent, name = " " * node.col_offset, lines[node.lineno - 1].strip()
        yield name, node.lineno, node.end_lineno or node.lineno, f"{indent}pass"
        if isinstance(node, ast.With | ast.If) and not _is_elif(node, lines):
            yield f"only the header of {name}", node.lineno, node.body[0].lineno - 1, f"{indent}if True:"


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, a bare annotation, `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.AnnAssign) and node.value is None)


def _is_elif(node: ast.stmt, lines: Sequence[str]) -> bool:
    return lines[node.lineno - 1].strip().startswith("elif ")
