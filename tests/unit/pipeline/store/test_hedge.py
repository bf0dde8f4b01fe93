"""Second requests: when they are sent, how many there may be, and whose answer counts. Seconds pass at once here."""

import asyncio
from collections.abc import Iterator

import pytest

from pipeline.store import hedge
from pipeline.store.hedge import Hedge
from pipeline.telemetry import STORE_HEDGES
from support.virtual_time import Clock, Loop

NEVER_S = 1000.0
Behaviour = float | tuple[float, Exception]
"""Seconds to the answer, or to the exception."""


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    clock = Clock()
    monkeypatch.setattr(hedge, "time", clock)
    loop = Loop(clock)
    yield loop
    loop.close()


class Requests:
    """Each behaves as its place says; the answer is that place. `cancelled` has those that were called off."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours, self.num_sent, self.cancelled = behaviours, 0, list[int]()

    async def __call__(self) -> int:
        place = self.num_sent
        self.num_sent += 1
        behaviour = self.behaviours[place]
        try:
            await asyncio.sleep(behaviour if isinstance(behaviour, float) else behaviour[0])
        except asyncio.CancelledError:
            self.cancelled.append(place)
            raise
        if not isinstance(behaviour, float):
            raise behaviour[1]
        return place


def ask(loop: Loop, hedged: Hedge, *requests: Requests) -> list[int]:
    """The answers, one after the other."""
    return [loop.run_until_complete(hedged.first_of(request)) for request in requests]


def num_sent(loop: Loop, hedged: Hedge, *behaviours: Behaviour) -> list[int]:
    """How often each of these was sent; a second one is never answered."""
    requests = [Requests(behaviour, NEVER_S) for behaviour in behaviours]
    ask(loop, hedged, *requests)
    return [request.num_sent for request in requests]


def test_a_request_within_the_patience_is_sent_once(loop: Loop) -> None:
    assert num_sent(loop, Hedge(), 0.9) == [1]


def test_a_slow_request_is_sent_again_and_called_off(loop: Loop) -> None:
    before, requests = STORE_HEDGES._value.get(), Requests(NEVER_S, 0.5)
    assert ask(loop, Hedge(), requests) == [1]
    assert loop.time() == pytest.approx(1.5) and requests.cancelled == [0]
    assert STORE_HEDGES._value.get() - before == 1


def test_the_first_may_still_win(loop: Loop) -> None:
    requests = Requests(1.2, NEVER_S)
    assert ask(loop, Hedge(), requests) == [0] and requests.cancelled == [1]


@pytest.mark.parametrize("behaviours", [((1.5, OSError("broken")), 2.0), (3.0, (0.2, OSError("broken")))])
def test_a_failure_does_not_count_while_the_other_may_succeed(loop: Loop, behaviours: tuple[Behaviour, ...]) -> None:
    requests = Requests(*behaviours)
    (answer,) = ask(loop, Hedge(), requests)
    assert isinstance(behaviours[answer], float) and requests.num_sent == 2 and requests.cancelled == []


def test_where_all_fail_it_fails(loop: Loop) -> None:
    with pytest.raises(OSError, match="second"):
        ask(loop, Hedge(), Requests((1.1, OSError("first")), (0.5, OSError("second"))))
    with pytest.raises(OSError, match="at once"):
        ask(loop, Hedge(), Requests((0.1, OSError("at once"))))


def quick(hedged: Hedge) -> Hedge:
    """As if recent answers had come at once, so that the patience stays as it is."""
    hedged._recent_s.extend([0.0] * 128)
    return hedged


def test_a_store_that_is_slow_as_a_whole_has_few_second_requests(loop: Loop) -> None:
    hedged = quick(Hedge())
    assert num_sent(loop, hedged, *[1.5] * 4) == [2, 2, 1, 1]
    num_sent(loop, hedged, *[0.1] * 25)  # one in 25
    assert num_sent(loop, hedged, 1.5, 1.5) == [2, 1]


def test_credit_for_second_requests_is_not_saved_up_for_ever(loop: Loop) -> None:
    hedged = quick(Hedge())
    num_sent(loop, hedged, *[0.1] * 100)
    assert num_sent(loop, hedged, *[1.5] * 3) == [2, 2, 1]


def test_patience_is_three_times_what_19_of_20_recent_answers_took(loop: Loop) -> None:
    hedged = Hedge()
    num_sent(loop, hedged, *[0.1] * 15, *[0.5] * 5)
    assert num_sent(loop, hedged, 1.4, 1.6) == [1, 2]
    num_sent(loop, hedged, *[0.9] * 100, *[0.1] * 5)
    assert num_sent(loop, hedged, 2.6) == [1]
    num_sent(loop, hedged, *[0.1] * 126, 0.9, 0.9)  # only 128 are remembered
    assert num_sent(loop, hedged, 1.1) == [2]
