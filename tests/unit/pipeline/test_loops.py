"""Loops over a stream or a loader: an epoch each, left anywhere, and never a batch lost, repeated or taken twice."""

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.augment.plan import ViewGroup
from pipeline.errors import UserError
from pipeline.loader import DataConfig, ViewLoader, open_loader
from pipeline.loops import IterationError
from pipeline.order import OrderConfig, OrderError
from pipeline.stream import SampleStream, StreamConfig, open_sequential_stream, open_training_stream

CPU = torch.device("cpu")
VIEWS = (ViewGroup(size=8, count=2, area=(0.4, 1.0)),)
STEPS = 4  # of an epoch: 37 samples in batches of 8

Place = tuple[int, int, list[int]]
"""Epoch, step and ids of a batch."""


def open_stream(shards: Path, **ranks: int) -> SampleStream:
    return open_training_stream(StreamConfig(shards=str(shards), order=OrderConfig(lanes=2)), 3, 8, **ranks)


def open_views(shards: Path, **options: Any) -> ViewLoader:
    planner = MultiCrop(MultiCropConfig(views=VIEWS), seed=0)
    config = DataConfig(stream=StreamConfig(shards=str(shards)), num_threads=1)
    return open_loader(open_stream(shards), planner, config, CPU, **options)


def place(batch: Any) -> Place:
    return batch.epoch, batch.step, batch.ids.tolist()


@pytest.fixture(params=["stream", "loader"])
def opened(request: pytest.FixtureRequest, shards: Path) -> Iterator[Any]:
    """A stream, or a loader over one: their loops are the same."""
    if request.param == "stream":
        yield open_stream(shards)
        return
    with open_views(shards) as loader:
        yield loader


@pytest.fixture(scope="module")
def whole(shards: Path) -> list[Place]:
    """Eight epochs without a stop: as many as `actions` may take."""
    return [place(batch) for batch in islice(open_stream(shards).forever(), 8 * STEPS)]


def test_a_loop_is_one_epoch_and_the_next_loop_the_next(opened: Any, whole: list[Place]) -> None:
    assert len(opened) == opened.steps_per_epoch == STEPS
    for epoch in range(3):
        assert opened.epoch == epoch
        assert [place(batch) for batch in opened] == whole[epoch * STEPS : (epoch + 1) * STEPS]


def test_forever_does_not_stop_at_an_epoch(opened: Any, whole: list[Place]) -> None:
    assert [place(batch) for batch in islice(opened.forever(), 11)] == whole[:11]


@pytest.mark.parametrize("position", [0, 1, 3, 4, 7])
def test_after_a_resume_the_first_loop_is_the_rest_of_the_epoch(opened: Any, whole: list[Place], position: int) -> None:
    opened.load_state_dict({**opened.state_dict(), "position": position})
    end = (position // STEPS + 1) * STEPS
    assert [place(batch) for batch in opened] == whole[position:end]
    assert [place(batch) for batch in opened] == whole[end : end + STEPS]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("break"), st.integers(1, STEPS + 1)),
        st.tuples(st.just("forever"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["epoch", "reload", "reopen"]), st.just(0)),
    ),
    max_size=5,
)


@pytest.mark.parametrize("kind", ["stream", "loader"])
@given(actions=actions)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_loops_left_and_states_saved_anywhere_give_the_batches_of_one_pass(
    shards: Path, whole: list[Place], kind: str, actions: list[tuple[str, int]]
) -> None:
    open_one = {"stream": open_stream, "loader": open_views}[kind]
    opened: Any = open_one(shards)
    found: list[Place] = []
    for action, count in actions:
        if action == "break":
            for num_done, batch in enumerate(opened, 1):
                found.append(place(batch))
                if num_done == count:
                    break
        elif action == "forever":
            found += [place(batch) for batch in islice(opened.forever(), count)]
        elif action == "epoch":
            found += [place(batch) for batch in opened]
        else:
            state = pickle.loads(pickle.dumps(opened.state_dict()))
            assert state["position"] == len(found)
            if action == "reopen":
                close(opened)
                opened = open_one(shards)
            opened.load_state_dict(state)
    close(opened)
    assert found == whole[: len(found)]


def close(opened: Any) -> None:
    if isinstance(opened, ViewLoader):
        opened.close()


def test_a_state_may_be_loaded_while_a_loop_is_under_way(opened: Any, whole: list[Place]) -> None:
    state = opened.state_dict()
    batches = iter(opened)
    assert [place(next(batches)) for _ in range(2)] == whole[:2]
    opened.load_state_dict(state)
    with pytest.raises(IterationError, match="or a state was loaded"):
        next(batches)
    assert [place(batch) for batch in opened] == whole[:STEPS]


def test_of_two_loops_the_newer_goes_on_and_the_older_is_refused(opened: Any, whole: list[Place]) -> None:
    first, second = iter(opened), iter(opened)
    assert place(next(first)) == whole[0]
    assert place(next(second)) == whole[1]
    with pytest.raises(IterationError, match="because another loop began"):
        next(first)
    assert place(next(second)) == whole[2]


def test_zip_of_a_loader_with_itself_is_refused(opened: Any) -> None:
    with pytest.raises(IterationError, match="one place at a time"):
        list(zip(opened, opened, strict=True))


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
def test_a_copy_is_refused_in_a_sentence(opened: Any, duplicate: Any) -> None:
    next(iter(opened))
    with pytest.raises(IterationError, match="cannot be pickled or copied") as error:
        duplicate(opened)
    assert isinstance(error.value, UserError) and str(error.value).count("\n") == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what the test is about
def test_a_forked_process_is_refused(opened: Any) -> None:
    def child(connection: Any) -> None:
        try:
            next(iter(opened))
        except IterationError as error:
            connection.send(str(error))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    assert ours.poll(30) and "num_workers=0" in ours.recv()
    process.join()


JUNK: list[Any] = [
    None, 0.5, "a", [], {}, {"position": 1}, -1, True, False, 1.0, "1", 2**80, float("nan"), [1], {"position": {}}
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_junk_is_no_state(opened: Any, whole: list[Place], junk: Any) -> None:
    good = opened.state_dict()
    states = [junk, {**good, "position": junk}, {**good, "more": junk}]
    states += [{**good, name: junk} for name in good if name != "position"]
    for state in states:
        with pytest.raises(OrderError, match="cannot resume: ") as error:
            opened.load_state_dict(state)
        assert str(error.value).count("\n") == 0 and len(str(error.value)) < 400
    for name in good:
        with pytest.raises(OrderError, match=f"has no '{name}'"):
            opened.load_state_dict({key: value for key, value in good.items() if key != name})
    assert opened.state_dict() == good and place(next(iter(opened))) == whole[0]


@pytest.mark.parametrize("junk", [junk for junk in JUNK if junk is not None], ids=repr)
def test_junk_is_no_position_to_make_a_state_of(shards: Path, junk: Any) -> None:
    with pytest.raises(OrderError, match="the position is"):
        open_stream(shards).state_dict(junk)


@pytest.mark.parametrize(("name", "other"), [("seed", 3.0), ("global_batch", 8.0), ("lanes", 2.0)])
def test_an_equal_number_of_another_type_is_junk_too(opened: Any, name: str, other: object) -> None:
    with pytest.raises(OrderError, match="cannot resume"):
        opened.load_state_dict({**opened.state_dict(), name: other})


def test_true_is_no_seed(shards: Path) -> None:
    stream = open_training_stream(StreamConfig(shards=str(shards), order=OrderConfig(lanes=2)), 1, 8)
    with pytest.raises(OrderError, match="seed was True"):
        stream.load_state_dict({**stream.state_dict(), "seed": True})


def test_a_closed_loader_says_so(shards: Path) -> None:
    with open_views(shards) as loader:
        batches = iter(loader)
        next(batches)
    for again in (batches, iter(loader)):
        with pytest.raises(IterationError, match="is closed"):
            next(again)


def view_threads() -> set[threading.Thread]:
    """The background threads of all loaders that are open."""
    return {thread for thread in threading.enumerate() if thread.name == "view-loader"}


def test_between_two_loops_nothing_is_made_again(shards: Path) -> None:
    others = view_threads()
    with open_views(shards) as loader:
        threads = [view_threads() - others for _ in range(3) if next(iter(loader))]
        assert len(threads[0]) == 1 and threads[0] == threads[1] == threads[2]
    assert not view_threads() - others


def test_after_an_error_the_next_loop_tries_that_batch_again(shards: Path, whole: list[Place]) -> None:
    calls = []

    def fail_once(views: list[torch.Tensor]) -> list[torch.Tensor]:
        calls.append(len(views))
        if len(calls) == 2:
            raise ZeroDivisionError
        return views

    with open_views(shards, transform=fail_once) as loader:
        batches = iter(loader)
        assert place(next(batches)) == whole[0]
        with pytest.raises(ZeroDivisionError):
            next(batches)
        assert [place(batch) for batch in loader] == whole[1:STEPS]


@pytest.mark.usefixtures("ctrl_c")
def test_after_ctrl_c_the_next_loop_goes_on_with_that_batch(shards: Path, whole: list[Place]) -> None:
    def interrupt(views: list[torch.Tensor]) -> list[torch.Tensor]:
        if not is_interrupted.is_set():
            is_interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)  # while the main thread waits for this batch
            time.sleep(0.2)
        return views

    is_interrupted = threading.Event()
    with open_views(shards, transform=interrupt) as loader:
        with pytest.raises(KeyboardInterrupt):
            next(iter(loader))
        assert [place(batch) for batch in loader] == whole[:STEPS]


def test_a_loader_that_is_dropped_ends_its_thread(shards: Path) -> None:
    others = view_threads()
    loader = open_views(shards)
    next(iter(loader))
    assert view_threads() - others
    del loader
    gc.collect()
    assert not view_threads() - others


def test_a_script_that_closes_nothing_ends_quietly(shards: Path) -> None:
    script = (
        "import sys; from pipeline import view_loader\n"
        "loader = view_loader(sys.argv[1], 8)\n"
        "batches = iter(loader)\n"
        "print(next(batches).step)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_sequential_stream_is_an_epoch_of_every_sample(shards: Path) -> None:
    stream = open_sequential_stream(StreamConfig(shards=str(shards)), 10)
    for _ in range(2):
        assert [i for batch in stream for i in batch.ids[batch.mask].tolist()] == [*range(37)]
