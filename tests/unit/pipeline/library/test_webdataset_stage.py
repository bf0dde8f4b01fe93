"""The stage for webdataset pipelines: the stream's samples in its order, with any number of workers and ranks."""

import contextlib
import copy
import json
import os
import pickle
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.library.webdataset_stage import WebdatasetSource, _Progress
from pipeline.loops import IterationError
from pipeline.order import OrderConfig, OrderError
from pipeline.stream import StreamConfig, open_training_stream
from support import forking
from support.shards import jpegs, write_shards

STEPS = 4  # of an epoch: 37 samples in batches of 8


def open_source(shards: Path, **options: Any) -> WebdatasetSource:
    config = StreamConfig(shards=str(shards), order=OrderConfig(lanes=2), num_threads=1)
    return WebdatasetSource(config, 8, seed=3, **options)


def batches(source: WebdatasetSource) -> Any:
    """A pipeline of stages as people have them: the keys of each batch."""
    stages = wds.decode("rgb8"), wds.to_tuple("__key__", "jpg;png;webp", "cls"), wds.batched(source.batch_size)
    return wds.DataPipeline(source, *stages)


def keys(loader: Any) -> list[list[str]]:
    return [batch[0] for batch in loader]


@pytest.fixture(scope="module")
def whole(shards: Path) -> list[list[str]]:
    """The keys of each step of three epochs."""
    config = StreamConfig(shards=str(shards), order=OrderConfig(lanes=2))
    stream = open_training_stream(config, 3, 8)
    return [batch.keys for batch in islice(stream.forever(), 3 * STEPS)]


def test_a_sample_is_what_webdataset_makes_of_the_tar(shards: Path) -> None:
    source = open_source(shards)
    with contextlib.ExitStack() as stack:  # webdataset leaves the closing of files to the garbage collector
        files = [stack.enter_context(path.open("rb")) for path in sorted(shards.glob("*.tar"))]
        tars = ({"url": file.name, "stream": file} for file in files)
        theirs = {sample["__key__"]: sample for sample in group_by_keys(tar_file_expander(tars))}
    ours = {sample["__key__"]: sample for sample in source}
    assert len(ours) == STEPS * 8
    for key, sample in ours.items():
        assert sample == {name: theirs[key][name] for name in ("__key__", "__url__", "cls", "jpg")}


def test_labels_and_metadata_of_every_kind(tmp_path: Path) -> None:
    write_shards(tmp_path, jpegs(3), labels={1: (0, 2), 2: None}, metadata={0: b'{"a": 1}'})
    found = {sample["__key__"]: sample for sample in WebdatasetSource(str(tmp_path), 1)}
    parts = [{name: part for name, part in found[f"k00000{i}"].items() if name in ("cls", "json", "meta.json")}
             for i in range(3)]  # fmt: skip
    assert parts == [{"cls": b"0", "meta.json": b'{"a": 1}'}, {"json": b'{"labels": [0, 2]}'}, {}]
    stages = wds.DataPipeline(WebdatasetSource(str(tmp_path), 1), wds.decode())
    decoded = {sample["__key__"]: sample for sample in stages}
    assert decoded["k000000"]["cls"] == 0 and decoded["k000000"]["meta.json"] == {"a": 1}
    assert decoded["k000001"]["json"] == {"labels": [0, 2]}


def test_a_loop_is_an_epoch_and_the_next_goes_on(shards: Path, whole: list[list[str]]) -> None:
    source = open_source(shards)
    for epoch in range(3):
        assert source.epoch == epoch
        assert keys(batches(source)) == whole[epoch * STEPS : (epoch + 1) * STEPS]


@pytest.mark.parametrize("position", range(9))
def test_a_loop_that_is_left_goes_on_with_the_next_batch(shards: Path, whole: list[list[str]], position: int) -> None:
    source = open_source(shards)
    found: list[list[str]] = []
    while len(found) < position:
        found += keys(islice(batches(source), position - len(found)))
    assert found == whole[:position]
    resumed = open_source(shards)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    end = (position // STEPS + 1) * STEPS
    assert keys(batches(resumed)) == keys(batches(source)) == whole[position:end]


def test_the_ranks_together_are_one(shards: Path, whole: list[list[str]]) -> None:
    ranks = [keys(batches(open_source(shards, rank=rank, world_size=4))) for rank in range(4)]
    assert [[*chain(*step)] for step in zip(*ranks, strict=True)] == whole[:STEPS]


def test_of_two_loops_the_older_is_refused(shards: Path) -> None:
    source = open_source(shards)
    first, second = iter(source), iter(source)
    next(first), next(second)
    with pytest.raises(IterationError, match="loop over the source has ended"):
        next(first)


@pytest.mark.parametrize("epoch", [-1, True, 1.0, "1", None, 2**70])
def test_a_junk_epoch_is_refused(shards: Path, epoch: Any) -> None:
    with pytest.raises(OrderError):
        open_source(shards).set_epoch(epoch)


def test_a_source_is_not_pickled(shards: Path) -> None:
    with pytest.raises(IterationError, match="cannot be pickled or copied"):
        pickle.dumps(open_source(shards))


def test_a_worker_that_starts_after_its_loop_has_ended_begins_no_other() -> None:
    progress = _Progress()
    late, kept = copy.copy(progress), copy.copy(progress)  # as the processes of two workers hold it
    kept.begin_in_worker(0)
    progress.restart(8)
    with pytest.raises(IterationError, match="loop of this worker process has ended"):
        late.begin_in_worker(1)
    for worker, process in enumerate((kept, copy.copy(progress))):
        process.begin_in_worker(worker)


WORKERS = """
import json, sys
import webdataset as wds
from pipeline import IterationError, OrderConfig, StreamConfig, WebdatasetSource

def open_source(url):
    config = StreamConfig(shards=url, order=OrderConfig(lanes=2), num_threads=1)
    return WebdatasetSource(config, 8, seed=3)

def loader(source, workers, method, **options):
    stages = wds.decode("rgb8"), wds.to_tuple("__key__", "jpg", "cls"), wds.batched(source.batch_size)
    data = wds.DataPipeline(source, *stages)
    return wds.WebLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=method, **options)

def refused(call, *args):
    try:
        call(*args)
    except IterationError as error:
        return str(error).strip().splitlines()[-1]

if __name__ == "__main__":
    found = {}
    for workers, method, persistent in ((3, "fork", 0), (1, "spawn", 1), (6, "fork", 1)):
        source = open_source(sys.argv[1])
        reader = loader(source, workers, method, persistent_workers=bool(persistent))
        keys = []
        for epoch in range(2):
            source.set_epoch(epoch)
            keys += [batch[0] for batch in reader]
        found[f"{workers} {method} {persistent}"] = keys
        if (workers, method) == (3, "fork"):
            found["no position"] = refused(source.state_dict)
            source.load_state_dict(source.state_dict(5))
            found["resumed"] = [batch[0] for batch in loader(source, 2, "fork")]
        # Last: workers of a refused loop may still be starting when the next loop begins.
        found[f"again {workers} {method} {persistent}"] = refused(list, reader)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_any_number_of_workers_gives_the_order_of_one_process(
    shards: Path, whole: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(WORKERS)
    done = forking.run([str(tmp_path / "script.py"), str(shards)], os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for setup in ("3 fork 0", "1 spawn 1", "6 fork 1"):
        assert found[setup] == whole[: 2 * STEPS], setup
        assert "before each loop call source.set_epoch(epoch)" in found[f"again {setup}"], setup
    assert "state_dict(position)" in found["no position"]
    assert found["resumed"] == whole[5 : 2 * STEPS]
