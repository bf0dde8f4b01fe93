"""The rules of the house that no linter knows; who may import whom is checked by `lint-imports`."""

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tools

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "esvit", "tools")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
# Longer on purpose, each with its reason: "path" or "path:function" -> why.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
CONFIG_HEADER = ("# command:", "# hardware:", "# hours:", "# score:")


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_fit_in_a_head() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in _sources(*PACKAGES, "tests")}
    assert {name for name, length in lengths.items() if length > MAX_FILE_LINES} == set(LONG_FILES)


def test_functions_fit_on_a_screen() -> None:
    long = {
        f"{_name(path)}:{function.name}"
        for path in _sources(*PACKAGES, "tests")
        for function in _functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_every_file_has_one_idea_and_is_named_after_it() -> None:
    vague = [_name(p) for p in _sources(*PACKAGES, "tests") if {p.stem, p.parent.name} & VAGUE_NAMES]
    assert vague == []


def test_public_names_are_explained() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    silent = [
        f"{_name(path)}:{node.name}"
        for path in _sources(*PACKAGES)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_training_configs_open_with_what_they_cost() -> None:
    incomplete = []
    for path in sorted((ROOT / "configs/train").glob("*.yaml")):
        lines = path.read_text().splitlines()
        body = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        header = "\n".join(lines[:body])
        incomplete += [f"{_name(path)}: {key}" for key in CONFIG_HEADER if key not in header]
    assert incomplete == []


def test_this_distribution_owns_the_name_tools() -> None:
    # `tools` is a name others have claimed too; the one that wins must be ours.
    assert set(importlib.metadata.packages_distributions()["tools"]) == {"esvit-streaming"}
    assert Path(tools.__file__) == ROOT / "tools/__init__.py"


def test_shards_are_built_without_torch() -> None:
    # None in sys.modules makes every `import torch` fail, as in the base install.
    code = "import sys; sys.modules['torch'] = None; import tools.shard_builder.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
