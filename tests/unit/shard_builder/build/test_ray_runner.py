"""Ray behaves as the processes do; one cluster of this machine for all tests, for it takes seconds to start."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.console.extras import MissingPackageError
from pipeline.errors import UserError
from tools.shard_builder.build.ray_runner import RayEngine
from tools.shard_builder.build.runners import RunnerError, run_tasks

pytestmark = pytest.mark.slow

WORK = """
import os, signal
from pipeline.errors import UserError
from pipeline.store import StoreError

def double(number):
    return 2 * number

def mistake(_):
    raise UserError("the source has changed")

def unreachable(_):
    raise StoreError("permission denied")

def die_once(folder):
    if not list(folder.iterdir()):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.name
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    with contextlib.closing(RayEngine(num_workers=2)) as engine:
        yield engine


@pytest.fixture
def work() -> dict[str, Any]:
    """Functions of no module, which travel by value: the workers of the cluster cannot import a test."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(WORK, namespace)
    return namespace


def test_results_failures_and_deaths(engine: RayEngine, work: dict[str, Any], tmp_path: Path) -> None:
    assert engine.num_slots == 2
    assert sorted(run_tasks(engine, work["double"], range(5))) == [0, 2, 4, 6, 8]
    with pytest.raises(UserError, match=r"^the source has changed$"):
        list(run_tasks(engine, work["mistake"], [1]))
    with pytest.raises(RunnerError, match=r"^2 of 2 shards failed or were not begun: permission denied; run"):
        list(run_tasks(engine, work["unreachable"], [1, 2]))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert list(run_tasks(engine, work["die_once"], [folder])) == ["folder"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:port"])
def test_a_cluster_that_does_not_answer_is_named(address: str) -> None:
    with pytest.raises(RunnerError, match=f"no Ray cluster answers at {address}, expected HOST:PORT"):
        RayEngine(1, address)


def test_what_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'esvit-streaming\[ray\]'"):
        RayEngine(1)
