"""Threads over images: each image once, and what goes wrong in one is not lost."""

import contextlib

import pytest

from pipeline.augment.threads import Threads


@pytest.mark.parametrize(("num_threads", "count"), [(1, 5), (3, 50), (4, 2), (2, 0)])
def test_every_place_is_taken_once(num_threads: int, count: int) -> None:
    taken: list[int] = []
    with contextlib.closing(Threads(num_threads)) as threads:
        for _ in range(2):
            taken.clear()
            threads.for_each(taken.append, count)
            assert sorted(taken) == list(range(count))


def test_an_error_in_a_thread_is_raised_here() -> None:
    def work(place: int) -> None:
        if place == 3:
            raise ZeroDivisionError

    with contextlib.closing(Threads(2)) as threads, pytest.raises(ZeroDivisionError):
        threads.for_each(work, 8)
