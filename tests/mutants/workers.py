"""Run the tests of each mutant in a copy of the repository, never in the working tree.

A worker imports the large libraries once and forks a pytest per mutant: this saves most of the time.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from mutants.mutant import ROOT, Mutant

_SLOWEST_IMPORTS = ("torch", "timm", "torchvision", "cv2", "fsspec", "s3fs", "pydantic", "rich", "sklearn")
_PR_SET_PDEATHSIG = 1
_MIN_TIMEOUT_S = 30.0
_TIMES_BASELINE = 8.0
_PLUGINS_ARE_HERE = "ignore::pytest.PytestAssertRewriteWarning"  # some come with the imports
_PYTEST = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-W", _PLUGINS_ARE_HERE, "--hypothesis-profile=mutants")


class Verdict(NamedTuple):
    """Result of a mutant: `outcome` is "killed", "timeout" or "survived"; `output` is pytest's."""

    outcome: str
    seconds: float
    output: str


def baselines(pool: ProcessPoolExecutor, mutants: Iterable[Mutant]) -> dict[tuple[str, ...], float]:
    """Seconds per selection of tests on the unchanged product.

    Raises:
        SystemExit: tests fail there, and would kill every mutant.
    """
    selections = list(dict.fromkeys(mutant.tests for mutant in mutants))
    seconds = {}
    for tests, verdict in zip(selections, pool.map(_baseline, selections), strict=True):
        if verdict.outcome != "survived":
            raise SystemExit(f"{verdict.output}\nwithout any mutant {' '.join(tests)} does not pass")
        seconds[tests] = verdict.seconds
    return seconds


def verdicts(
    pool: ProcessPoolExecutor, mutants: Sequence[Mutant], seconds: dict[tuple[str, ...], float]
) -> Iterator[tuple[Mutant, Verdict]]:
    """Each mutant with its verdict, in order of completion."""
    limits = [max(_MIN_TIMEOUT_S, _TIMES_BASELINE * seconds[mutant.tests]) for mutant in mutants]
    futures: dict[Future[Verdict], Mutant] = {
        pool.submit(_try, mutant, limit): mutant for mutant, limit in zip(mutants, limits, strict=True)
    }
    for future in as_completed(futures):
        yield futures[future], future.result()


def open_pool(num_workers: int, folder: Path) -> ProcessPoolExecutor:
    """Workers, each with a copy of the repository in `folder`."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # stale bytecode would hide a mutant
    os.environ.setdefault("ESVIT_TEST_DATA", str(ROOT / "../shared/data"))  # the copy has no such neighbour
    return ProcessPoolExecutor(num_workers, get_context("spawn"), _prepare, (folder,))


def _prepare(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _end_with_parent()
    copy = Path(tempfile.mkdtemp(dir=folder))
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    os.chdir(copy)
    for name in _SLOWEST_IMPORTS:
        with suppress(ImportError):
            __import__(name)
    assert not {"esvit", "pipeline", "tools"} & sys.modules.keys(), "the product must be imported from the copy"


def _end_with_parent() -> None:
    """Make this process die with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _baseline(tests: tuple[str, ...]) -> Verdict:
    return _run(tests, 600.0)


def _try(mutant: Mutant, timeout_s: float) -> Verdict:
    path = Path(mutant.file)
    source = path.read_text()
    path.write_text(mutant.applied(source))
    try:
        return _run(mutant.tests, timeout_s)
    finally:
        path.write_text(source)


def _run(tests: tuple[str, ...], timeout_s: float) -> Verdict:
    begin_s = time.monotonic()
    with tempfile.TemporaryFile() as output:
        child = _fork(lambda: _pytest(tests), output.fileno())
        status = _wait(child, timeout_s)
        output.seek(0)
        text = output.read().decode(errors="replace")
    seconds = time.monotonic() - begin_s
    if status is None:
        return Verdict("timeout", seconds, text)
    if status in (4, 5):  # a selection that does not exist, or is empty, would make every mutant survive
        raise RuntimeError(f"pytest cannot run {' '.join(tests)}:\n{text}")
    return Verdict("survived" if status == 0 else "killed", seconds, text)


def _pytest(tests: tuple[str, ...]) -> int:
    sys.modules["__main__"] = types.ModuleType("__main__")  # what a spawned process would import first
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.getcwd()  # for the commands that tests start
    import pytest
    from hypothesis import Phase, settings

    # The same examples every time, and no shrinking of a failing example.
    settings.register_profile("mutants", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
    return int(pytest.main([*_PYTEST, *tests]))


def _fork(function: Callable[[], int], output: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _end_with_parent()
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, timeout_s: float) -> int | None:
    """The exit status; None after the timeout. Ends all processes that the child started."""
    deadline_s, status = time.monotonic() + timeout_s, None
    while time.monotonic() < deadline_s:
        done, wait_status = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(wait_status)
            break
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status
