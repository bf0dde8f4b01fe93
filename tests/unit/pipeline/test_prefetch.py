"""Prefetching: in order, bounded, and gone when it is no longer wanted."""

import random
import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prefetch import prefetch


def alive(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


def slowly_square(x: int) -> int:
    time.sleep(random.uniform(0, 0.002))
    return x * x


@given(st.lists(st.integers(), max_size=20), st.integers(1, 4), st.integers(0, 6))
def test_results_come_in_order(items: list[int], num_threads: int, look_ahead: int) -> None:
    assert list(prefetch(slowly_square, items, num_threads, look_ahead, "order")) == [x * x for x in items]
    assert alive("order") == []


@pytest.mark.parametrize("look_ahead", [0, 1, 5])
def test_no_more_is_begun_than_allowed(look_ahead: int) -> None:
    taken = count()
    results = prefetch(lambda x: x, (next(taken) for _ in count()), 3, look_ahead, "bounded")
    for asked_for in range(1, 20):
        next(results)
        assert next(taken) == asked_for + look_ahead
        taken = count(asked_for + look_ahead)
    results.close()


def test_nothing_is_begun_before_the_first_is_asked_for() -> None:
    begun: list[int] = []
    results = prefetch(begun.append, [1, 2, 3], 2, 2, "lazy")
    assert begun == [] and alive("lazy") == []
    list(results)
    assert sorted(begun) == [1, 2, 3]


def test_work_runs_ahead_in_parallel() -> None:
    meeting = threading.Barrier(4, timeout=10)  # passes only if four items are under way at once
    assert len(list(prefetch(lambda _: meeting.wait(), range(4), 4, 3, "parallel"))) == 4


def test_an_exception_comes_in_the_place_of_its_result() -> None:
    def fail_at_three(x: int) -> int:
        if x == 3:
            raise OSError("three")
        return x

    results = prefetch(fail_at_three, count(), 4, 8, "failing")
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="three"):
        next(results)
    assert alive("failing") == [] and list(results) == []


def test_an_exception_of_the_source_gets_through() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(prefetch(lambda x: x, source(), 2, 4, "source"))
    assert alive("source") == []


def test_closing_early_waits_for_what_runs_and_drops_the_rest() -> None:
    begun: list[int] = []
    release = threading.Event()

    def work(x: int) -> int:
        begun.append(x)
        return x if x == 0 or release.wait(10) else -1

    results = prefetch(work, count(), 1, 20, "closing")
    assert next(results) == 0
    threading.Timer(0.05, release.set).start()
    results.close()
    assert alive("closing") == [] and len(begun) <= 3


def test_what_is_ready_is_done_at_once_and_in_its_place() -> None:
    threads: dict[int, str] = {}

    def work(x: int) -> int:
        threads[x] = threading.current_thread().name
        if x == 6:
            raise OSError("six")
        return x

    results = prefetch(work, range(8), 2, 3, "ready", lambda x: x % 2 == 0)
    assert list(islice(results, 6)) == [0, 1, 2, 3, 4, 5]
    assert all((name == threading.current_thread().name) == (x % 2 == 0) for x, name in threads.items())
    with pytest.raises(OSError, match="six"):
        next(results)
