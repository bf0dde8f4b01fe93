"""Whatever a source holds: no traceback, no hang, and images in = samples + rejects + left out, exactly.

A failure names its seed: `make_and_build(kind, seed, folder)` does the same again.
"""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.format.tar import iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.random_sources import MAKERS
from tools.shard_builder.build.finish import read_rejects
from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify

_PATIENCE_S = 20


@contextmanager
def patience() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("the build hangs")

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)  # pytest-timeout's
        signal.signal(signal.SIGALRM, before)


def make_and_build(kind: str, seed: int, root: Path) -> str:
    """One source and its build; how it ended, in a word."""
    rng = random.Random(f"{kind} {seed}")
    root.mkdir()
    request = MAKERS[kind](root, rng)
    dest = root.parent / f"{root.name}-shards"
    options = BuildOptions(
        request.dataset,
        request.source,
        "train",
        str(dest),
        rng.choice([2_000, 10**6]),
        max_rejects=10**6,
        keep_metadata=rng.random() < 0.5,
        unlabelled=rng.random() < 0.2,
        images=ImagePolicy(to_jpeg=rng.random() < 0.5),
    )
    try:
        with patience():
            report = build(options)
    except UserError as error:
        text = str(error)
        assert text and "Traceback" not in text and len(text) < 1500, text
        return "refused"
    manifest, rejects = read_manifest(Store(dest)), read_rejects(Store(dest))
    assert manifest.num_samples == report.num_samples
    assert manifest.num_rejects == len(rejects) == report.num_rejects == sum(report.rejects.values())
    assert manifest.num_samples + len(rejects) == request.num_images()
    assert manifest.left_out == report.left_out
    if request.num_others:
        assert sum(manifest.left_out.values()) == request.num_others()
    if seed % 10 == 0:
        assert verify(Store(dest)).problems == ()
    labels = {type(sample.label) for entry in manifest.shards for sample in iter_samples(dest / entry.tar_name)}
    assert len(labels) == 1 and (type(None) in labels) == (not manifest.classes)
    return "built"


def run(kind: str, seeds: range, folder: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        try:
            outcomes[make_and_build(kind, seed, folder / str(seed))] += 1
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
        shutil.rmtree(folder / str(seed))
        shutil.rmtree(folder / f"{seed}-shards", ignore_errors=True)
    return outcomes


@pytest.mark.parametrize("kind", MAKERS)
def test_some_random_sources(kind: str, tmp_path: Path) -> None:
    outcomes = run(kind, range(15), tmp_path)
    assert min(outcomes["built"], outcomes["refused"]) > 2  # or the mutations are too wild, or too tame


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", MAKERS)
def test_two_thousand_random_sources(kind: str, tmp_path: Path) -> None:
    print(kind, dict(run(kind, range(2000), tmp_path)))  # noqa: T201
