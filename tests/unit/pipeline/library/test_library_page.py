"""The public API: its names are declared, documented and cheap, and every example of docs/library.md runs."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import pipeline
from pipeline.augment import RECIPES, CenterCropConfig, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from support.shards import jpegs

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/library.md").read_text()
SMALL = MultiCropConfig(
    views=(ViewGroup(size=16, count=2, area=(0.4, 1.0)), ViewGroup(size=8, count=8, area=(0.05, 0.4)))
)


def examples() -> list[ParameterSet]:
    """Each under the heading that it stands below."""
    heading, found = "", []
    for line, block in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        heading = line or heading
        if block:
            marks = [pytest.mark.slow] if "num_workers=2" in block else []
            found.append(pytest.param(block, id=heading.lower().replace(" ", "-"), marks=marks))
    return found


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with photographs to work in, and views of a few pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "dino", SMALL)
    monkeypatch.setitem(RECIPES, "eval", CenterCropConfig(size=16, resize=20))
    (tmp_path / "photos").mkdir()
    for number, content in enumerate(jpegs(3)):
        (tmp_path / f"photos/{number}.jpg").write_bytes(content)


@pytest.mark.parametrize("code", examples())
@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("ignore")  # of Lightning and torchdata, about the torch below them
def test_the_example_runs(code: str, shards: Path, tmp_path: Path) -> None:
    for theirs, ours in {
        "/tmp/shards": f"{tmp_path}/cache",
        "s3://BUCKET/photos/train": str(shards),
        "s3://BUCKET/photos/val": str(shards),
        "s3://BUCKET/drawings/train": str(shards),
        "global_batch=256": "global_batch=8",
        "range(loader.epoch, 100)": "range(loader.epoch, 2)",
    }.items():
        code = code.replace(theirs, ours)
    assert "BUCKET" not in code
    if "num_workers=2" in code:  # forks, which a process of its own should do
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        exec(compile(code, "docs/library.md", "exec"), {"__name__": "example"})


def test_every_task_has_an_example() -> None:
    found = {str(example.id) for example in examples()}
    assert found >= {
        "look-at-samples", "train-with-plain-torch", "resume", "settings", "evaluate", "statefuldataloader",
        "lightning", "accelerate", "webdataset", "views-in-one-call", "own-augmentation",
    }  # fmt: skip
    linked = set(re.findall(r"\]\(#([a-z-]+)\)", PAGE))
    assert linked == {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}


def imported_for_type_checkers() -> dict[str, str]:
    """The module that each name comes from."""
    tree = ast.parse(Path(pipeline.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    return {alias.name: str(node.module) for node in imports for alias in node.names if "pipeline" in str(node.module)}


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    seen = imported_for_type_checkers()
    del seen["missing_package"]
    assert seen == pipeline._MODULES and set(seen) == set(pipeline.__all__)


@pytest.mark.parametrize("name", pipeline.__all__)
def test_a_public_name_is_there_explained_and_documented(name: str) -> None:
    value = getattr(pipeline, name)
    assert value is getattr(importlib.import_module(pipeline._MODULES[name]), name)
    assert name == "RECIPES" or inspect.getdoc(value)
    assert re.search(rf"`{name}[`(]", PAGE), f"docs/library.md says nothing of {name}"
    assert not (ROOT / f"pipeline/{name}.py").exists(), "a module of that name would take its place once imported"


def test_the_names_are_sorted_and_dir_has_them() -> None:
    kinds = [(not name.isupper(), name[0].islower(), name) for name in pipeline.__all__]
    assert kinds == sorted(kinds) and dir(pipeline) == sorted(pipeline.__all__)
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'nosuch'"):
        pipeline.nosuch  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(pipeline, "TYPE")


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import pipeline; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "numpy", "pydantic", "fsspec", "pipeline.stream"} & set(done.stdout.split())
    assert len(done.stdout.split()) < 40, done.stdout


def test_our_types_are_for_our_users_too() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("pipeline", "esvit", "tools"):
        assert (ROOT / package / "py.typed").exists() and "py.typed" in declared[package]
