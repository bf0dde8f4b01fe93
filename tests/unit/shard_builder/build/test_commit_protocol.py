"""The protocol by which a build commits: killed before, within or after any write, by any number of builders."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from pipeline.store.atomic import is_partial
from tools.shard_builder.build.finish import finish
from tools.shard_builder.build.journal import ClaimError, PublishError, read_claim
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.verify import verify

SHARD_BYTES = 20_000
SHARD = ["train-000001.tar", "train-000001.samples.npy", "train-000001.idx", "train-000001.tar.idx"]
DATA_SET = ["wids.json", ".nv-meta/.info.json", ".nv-meta/split.yaml", ".nv-meta/dataset.yaml"]
WRITES = ["_build/plan.json", *SHARD, "_build/done/000001.json", "rejects.jsonl", *DATA_SET, "manifest.json"]


def options(source: Path, dest: Path, **changes: Any) -> BuildOptions:
    return BuildOptions("image-folder", source, "train", str(dest), **({"shard_bytes": SHARD_BYTES} | changes))


def files(dest: Path) -> dict[str, bytes]:
    paths = {str(path.relative_to(dest)): path for path in dest.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not is_partial(name)}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(monkeypatch: pytest.MonkeyPatch, when: str, victim: str) -> None:
    """Let this process die before, within or after the write of one object."""

    def armed_write(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(self: Store, name: str, source: Any) -> Any:
            if (when, victim) == ("before", name):
                die()
            result = original(self, name, source)
            if (when, victim) == ("after", name):
                die()
            return result

        return write

    def armed_naming(original: Callable[..., Any]) -> Callable[..., Any]:
        def appear(source: Any, path: Any) -> None:
            if when == "within" and str(path).endswith(f"/{victim}"):
                die()
            original(source, path)

        return appear

    for method in ("put", "put_new"):
        monkeypatch.setattr(Store, method, armed_write(getattr(Store, method)))
    for function in ("link", "replace"):  # what gives a file its name, when its content is complete
        monkeypatch.setattr(os, function, armed_naming(getattr(os, function)))


def killed_build(source: Path, dest: Path, when: str, victim: str) -> None:
    child = os.fork()
    if child == 0:
        arm(pytest.MonkeyPatch(), when, victim)
        build(options(source, dest))
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("victim", WRITES)
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_killed_at_any_point_a_rerun_ends_with_the_same_bytes(
    tiny_image_folder: Path, tmp_path: Path, when: str, victim: str
) -> None:
    build(options(tiny_image_folder, tmp_path / "calm"))
    killed_build(tiny_image_folder, tmp_path / "out", when, victim)
    assert (tmp_path / "out/manifest.json").exists() == ((when, victim) == ("after", "manifest.json"))
    build(options(tiny_image_folder, tmp_path / "out"))
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_killed_at_one_point_after_the_other(tiny_image_folder: Path, tmp_path: Path) -> None:
    build(options(tiny_image_folder, tmp_path / "calm"))
    for victim in WRITES:
        killed_build(tiny_image_folder, tmp_path / "out", "within", victim)
    build(options(tiny_image_folder, tmp_path / "out"))
    assert files(tmp_path / "out") == files(tmp_path / "calm")
    assert verify(Store(tmp_path / "out")).problems == ()


def test_two_workers_killed_with_their_parent(tiny_image_folder: Path, tmp_path: Path) -> None:
    args = ["--source", tiny_image_folder, "--dest", tmp_path / "out", "--shard-size", "3kB", "--num-workers", "2"]
    command = [sys.executable, "-c", "from tools.shard_builder.cli import main; main()", "build"]
    command += ["--dataset", "image-folder", "--split", "train", *map(str, args)]
    process = subprocess.Popen(command)
    while process.poll() is None and len(list(tmp_path.glob("out/_build/done/*.json"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "out/manifest.json").exists()
    build(options(tiny_image_folder, tmp_path / "out", shard_bytes=3_000))
    build(options(tiny_image_folder, tmp_path / "calm", shard_bytes=3_000))
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_builders_of_one_plan_may_race(tiny_image_folder: Path, tmp_path: Path) -> None:
    build(options(tiny_image_folder, tmp_path / "calm", shard_bytes=5_000))
    racers = [options(tiny_image_folder, tmp_path / "out", shard_bytes=5_000)] * 4
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(build, racers))
    assert len({report.manifest_digest for report in reports}) == 1
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_of_builders_of_two_plans_one_wins(tiny_image_folder: Path, tmp_path: Path) -> None:
    def attempt(seed: int) -> str | None:
        try:
            return build(options(tiny_image_folder, tmp_path / "out", shuffle_seed=seed)).manifest_digest
        except ClaimError:
            return None

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(attempt, (0, 1, 2, 3)))
    (winner,) = set(digests) - {None}
    assert read_manifest(Store(tmp_path / "out")).digest == winner
    assert verify(Store(tmp_path / "out")).problems == ()


@pytest.mark.parametrize("when", ["before", "within", "after"])
@pytest.mark.parametrize("num_shards_of_next", [1, 3])
def test_two_generations_never_mix(
    tiny_image_folder: Path, tmp_path: Path, when: str, num_shards_of_next: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder sleeps at shard 1, its destination is emptied and another begins there; then it wakes up."""
    dest = tmp_path / "out"
    store, claims = Store(dest), []

    def be_overtaken() -> None:
        monkeypatch.setattr(f"{__name__}.die", lambda: None)
        claims.append(read_claim(store))
        shutil.rmtree(dest)
        build(options(tiny_image_folder, dest, shuffle_seed=1, shard_range=slice(num_shards_of_next)))

    monkeypatch.setattr(f"{__name__}.die", be_overtaken)
    arm(monkeypatch, when, "train-000001.tar")
    with pytest.raises(UserError):
        build(options(tiny_image_folder, dest))
    with pytest.raises(UserError):
        finish(store, claims[0], max_rejects=0)
    try:
        build(options(tiny_image_folder, dest, shuffle_seed=1))
    except PublishError:  # the old builder has left a shard there: seen, and refused
        assert num_shards_of_next == 1 and not store.exists("manifest.json")
    else:
        assert verify(store).problems == ()


def test_a_destination_that_is_taken_while_a_build_finishes_gets_no_manifest(
    tiny_image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards are there, and the last sidecar: then the claim becomes another's."""
    store = Store(tmp_path / "out")
    put_new = Store.put_new

    def be_overtaken(self: Store, name: str, source: Any) -> bool:
        if name == DATA_SET[-1]:
            claim = read_claim(store)
            store.put("_build/plan.json", claim.replace(plan_digest="of another").model_dump_json().encode())
        return put_new(self, name, source)

    monkeypatch.setattr(Store, "put_new", be_overtaken)
    with pytest.raises(ClaimError, match="was taken by another build"):
        build(options(tiny_image_folder, tmp_path / "out"))
    assert store.exists(DATA_SET[-1]) and not store.exists("manifest.json")
