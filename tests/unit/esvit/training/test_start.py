"""A refused start writes nothing: neither into the folder of a run that exists, nor a new one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esvit.training.config import TrainConfig
from esvit.training.loop import train
from pipeline.config import load
from pipeline.errors import UserError
from pipeline.store import retry
from support.shards import jpegs, write_shards
from support.training import REPOSITORY, TINY

Files = dict[str, tuple[int, bytes]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, jpegs(8), jpegs(8))
    return folder


def config(output: Path, shards: Path, *overrides: str) -> TrainConfig:
    paths = (f"output={output}", f"data.stream.shards={shards}", "schedule.epochs=2", "checkpoint.every_steps=2")
    return load(TrainConfig, [REPOSITORY / "configs/train/digits_view.yaml"], [*paths, *TINY, *overrides])


def files(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def test_a_refused_start_leaves_the_run_as_it_was(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(retry, "_PATIENCE_NEVER_REACHED_S", 0.5)
    run = tmp_path / "run"
    assert train(config(run, shards)) == 0
    before = files(run)
    assert {"config.yaml", "log.jsonl", "checkpoints/step-00000004.pt"} <= before.keys()
    refusals = {
        "seed=7": "cannot resume: seed was 0",
        "global_batch=16": "cannot resume: global batch was 8",
        "model.head.hidden=48": "does not fit this network",
        "loss.region_weight=0": "does not fit this network|has '.*', which this network lacks",
        "schedule.epochs=1": "is beyond the end of this run, which has 2 steps; raise schedule.epochs from 1",
        f"data.stream.shards={tmp_path}": "holds no manifest.json",
        "data.stream.shards=s3://bucket/shards": "127.0.0.1:9",
        "checkpoint.url=s3://bucket/run": "127.0.0.1:9",
        "data.executor=nosuch": "unknown executor 'nosuch'",
        "metrics.address=203.0.113.1": "cannot listen on",
        "loss.name=nosuch:Loss": "cannot import nosuch:Loss",
        "model.backbone.name=os:system": "os:system must be a subclass",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refusals[f"metrics.port={taken.getsockname()[1]}"] = "cannot listen on"
        for change, sentence in refusals.items():
            with pytest.raises(UserError, match=sentence):
                train(config(run, shards, change))
            assert files(run) == before, change


def test_damaged_checkpoints_are_refused_as_they_are(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(config(run, shards)) == 0
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(b"damaged")
    before = files(run)
    with pytest.raises(UserError, match="are damaged; remove them to start anew"):
        train(config(run, shards))
    assert files(run) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("output={folder}/file/run", "cannot write the output folder .*/file/run: .*/file is a file"),
        ("checkpoint.start_from={folder}/nowhere", "there is no checkpoint"),
        ("checkpoint.url={folder}/file/checkpoints", "cannot (write|read|list) .*file/checkpoints"),
        ("global_batch=64", "the data set has 16 samples, fewer than one global batch of 64"),
    ],
)
def test_a_new_run_that_is_refused_leaves_nothing(shards: Path, tmp_path: Path, change: str, sentence: str) -> None:
    (tmp_path / "file").touch()
    before = files(tmp_path)
    with pytest.raises(UserError, match=sentence):
        train(config(tmp_path / "run", shards, change.format(folder=tmp_path)))
    assert files(tmp_path) == before


def test_a_port_is_free_again_after_a_run(shards: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        assert train(config(tmp_path / "run", shards, f"metrics.port={port}")) == 0
