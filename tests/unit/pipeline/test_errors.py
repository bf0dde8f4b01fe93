"""The error tree is drawn whole, and as it is."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline import errors

ROOT = Path(__file__).parents[3]


def classes() -> Iterator[tuple[str, set[str]]]:
    """Each class of our packages with its bases, by name."""
    for package in ("pipeline", "esvit", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def actual_tree() -> dict[str, str]:
    """Each child of `UserError`, and of those, with its parent."""
    bases, tree, parents = dict(classes()), dict[str, str](), {"UserError"}
    while parents:
        found = {name: min(of & parents) for name, of in bases.items() if of & parents}
        tree |= found
        parents = set(found)
    return tree


def drawn_tree() -> dict[str, str]:
    tree, parents = dict[str, str](), ["UserError"]
    for line in (inspect.getdoc(errors) or "").splitlines():
        if match := re.match(r"^    ((?:│   |    )*)[├└]── ((?:\w+, )*\w+)", line):
            depth, names = len(match[1]) // 4, match[2].split(", ")
            parents[depth + 1 :] = names[-1:]
            tree |= dict.fromkeys(names, parents[depth])
    return tree


def test_every_error_of_a_user_is_in_the_drawing_below_its_parent() -> None:
    assert drawn_tree() == actual_tree()


def test_the_walk_finds_grandchildren() -> None:
    assert actual_tree()["MissingObjectError"] == "StoreError" and actual_tree()["StoreError"] == "UserError"
