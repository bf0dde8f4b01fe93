"""How long a request is tried again, on a clock that stands still unless it is told to pass."""

import errno
import random
from dataclasses import dataclass, field

import pytest

from pipeline.store import faults, retry
from pipeline.store.faults import MissingBucketError
from pipeline.store.retry import GaveUpError, Retries


@dataclass
class Clock:
    """Stands for the module `time`."""

    now_s: float = 1000.0
    pauses_s: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Pauses are as long as their jitter allows."""
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(random, "uniform", lambda low, high: high if low == 0 else pytest.fail("no full jitter"))
    return clock


class Request:
    """Fails with each of `errors`, then succeeds, or, if `lasting`, goes on failing."""

    def __init__(self, *errors: Exception, lasting: bool = False) -> None:
        self._errors, self._lasting, self.num_tries = list(errors), lasting, 0

    def __call__(self) -> str:
        self.num_tries += 1
        if not self._errors:
            return "result"
        raise self._errors[0] if self._lasting else self._errors.pop(0)


class Answer(OSError):
    """An error that the server has answered with."""

    def __init__(self, status: int, retry_after: str = "") -> None:
        super().__init__(f"status {status}")
        headers = {"retry-after": retry_after} if retry_after else {}
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}


def test_pauses_double_up_to_a_limit_and_end_within_the_patience(clock: Clock) -> None:
    request = Request(Answer(503), lasting=True)
    with pytest.raises(GaveUpError) as info:
        Retries().run(request, "read x")
    assert clock.pauses_s == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[8.0] * 5])
    assert sum(clock.pauses_s) + 8.0 > retry._PATIENCE_S > sum(clock.pauses_s)
    assert info.value.num_tries == request.num_tries == len(clock.pauses_s) + 1
    assert info.value.fault.kind == "throttled"


def test_a_pause_that_outlasts_the_patience_is_not_begun(clock: Clock) -> None:
    with pytest.raises(GaveUpError):
        Retries().run(Request(Answer(503, retry_after="60")), "read x")
    assert clock.pauses_s == []
    assert Retries().run(Request(Answer(503, retry_after="59")), "read x") == "result"
    assert clock.pauses_s == pytest.approx([59.2])


def test_patience_begins_with_the_first_failure_of_each_request(clock: Clock) -> None:
    retries = Retries()
    for _ in range(3):
        assert retries.run(Request(*[Answer(500)] * 8), "read x") == "result"
    assert len(clock.pauses_s) == 24


def test_an_endpoint_that_was_never_reached_is_given_up_sooner(clock: Clock) -> None:
    unreachable = ConnectionError("refused")
    retries = Retries()
    with pytest.raises(GaveUpError):
        retries.run(Request(unreachable, lasting=True), "read x")
    assert sum(clock.pauses_s) < retry._PATIENCE_NEVER_REACHED_S
    retries.run(Request(), "read x")
    clock.pauses_s.clear()
    with pytest.raises(GaveUpError):
        retries.run(Request(unreachable, lasting=True), "read x")
    assert sum(clock.pauses_s) > retry._PATIENCE_S - retry._MAX_PAUSE_S


def test_a_bucket_that_was_read_from_may_come_back(clock: Clock) -> None:
    retries = Retries()
    with pytest.raises(GaveUpError) as info:
        retries.run(Request(MissingBucketError()), "read x")
    assert info.value.num_tries == 1
    retries.has_been_read = True
    assert retries.run(Request(MissingBucketError()), "read x") == "result"
    assert len(clock.pauses_s) == 1


@pytest.mark.parametrize("error", [Answer(403), Answer(404), OSError(errno.ENOSPC, "full"), Answer(412)])
def test_what_will_not_pass_is_not_repeated(clock: Clock, error: Exception) -> None:
    request = Request(error, lasting=True)
    with pytest.raises(GaveUpError):
        Retries().run(request, "read x")
    assert request.num_tries == 1 and clock.pauses_s == []


def test_our_bugs_pass_as_they_are(clock: Clock) -> None:
    with pytest.raises(AttributeError):
        Retries().run(lambda: Retries()._patience_s(None), "read x")  # type: ignore[arg-type]
    assert clock.pauses_s == []


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (Answer(500), "server", True),
        (Answer(429), "throttled", True),
        (Answer(409), "conflict", True),
        (Answer(416), "short", False),
        (ConnectionResetError(), "cut", True),
        (BrokenPipeError(), "cut", True),
        (TimeoutError(), "cut", True),
        (PermissionError(), "permission", False),
        (FileNotFoundError(), "missing", False),
        (OSError(errno.EDQUOT, "quota"), "disk_full", False),
        (faults.ShortBodyError("its answer ends after 3 bytes"), "short", False),
        (OSError("whatever"), "other", False),
    ],
)
def test_faults_by_kind(error: Exception, kind: str, transient: bool) -> None:
    fault = faults.explain(error)
    assert fault is not None and (fault.kind, fault.transient) == (kind, transient)


def test_a_conditional_write_and_a_range_past_the_end_are_known_by_their_status() -> None:
    assert (
        faults.is_conflict(Answer(412))
        and faults.is_conflict(FileExistsError())
        and not faults.is_conflict(Answer(409))
    )
    assert faults.is_past_end(Answer(416)) and not faults.is_past_end(Answer(412))
