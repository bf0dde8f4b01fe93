"""A server that hardly moves: its answers are broken off and tried again, and in the end there is a sentence."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from pipeline.store import Store, StoreError, hedge, progress, retry
from pipeline.store.progress import TooSlowError
from pipeline.telemetry import STORE_ERRORS
from support.tiny_s3 import TinyS3, tiny_s3
from support.virtual_time import Clock, Loop


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyS3]:
    """Limits that take seconds are a tenth as long, or shorter."""
    monkeypatch.setattr(progress, "_WINDOW_S", 0.5)
    monkeypatch.setattr(progress, "_ANSWER_S", 0.5)
    monkeypatch.setattr(retry, "_PATIENCE_S", 0.6)
    monkeypatch.setattr(retry, "_MAX_PAUSE_S", 0.05)
    monkeypatch.setattr(hedge, "_MIN_PATIENCE_S", 600.0)
    with tiny_s3(monkeypatch) as server:
        server.objects["/bucket/x"] = bytes(2000)
        yield server


def num_slow() -> float:
    return STORE_ERRORS.labels(kind="slow")._value.get()


def test_a_body_that_drips_is_not_waited_for(server: TinyS3) -> None:
    server.objects["/bucket/x"], server.drip = bytes(60), {"body"}
    before, begin_s = num_slow(), time.monotonic()
    with pytest.raises(StoreError, match=r"cannot read s3://bucket/x: the store is too slow \(only \d bytes came in"):
        Store("s3://bucket").read("x")
    assert time.monotonic() - begin_s < 5
    assert num_slow() - before >= 2


@pytest.mark.parametrize(
    "request_of", [lambda store: store.read("x"), lambda store: store.size("x"), lambda store: store.put("y", b"1")]
)
def test_no_request_waits_for_a_head_that_drips(server: TinyS3, request_of: object) -> None:
    server.drip = {"head"}
    begin_s = time.monotonic()
    with pytest.raises(StoreError, match=r"the store is too slow \(the answer was not complete after"):
        request_of(Store("s3://bucket"))  # type: ignore[operator]
    assert time.monotonic() - begin_s < 5


def read_body(*waits_s: float) -> bytes:
    """Read a body of which 1000 bytes come after each of these waits, on a clock that does not wait."""

    async def read() -> bytes:
        body = asyncio.StreamReader()

        async def arrive() -> None:
            for wait_s in waits_s:
                await asyncio.sleep(wait_s)
                body.feed_data(bytes(1000))
            body.feed_eof()

        arriving = asyncio.create_task(arrive())
        try:
            return await progress.read_all(body.read)
        finally:
            arriving.cancel()

    loop = Loop(Clock())
    try:
        return loop.run_until_complete(read())
    finally:
        loop.close()


def test_a_slow_body_that_moves_is_read_over_many_windows() -> None:
    assert len(read_body(*[0.9] * 100)) == 100_000
    with pytest.raises(TooSlowError, match="only 9000 bytes came in 10 s"):
        read_body(*[1.1] * 100)


def test_a_body_that_ceases_to_move_is_not_waited_for_because_much_has_come() -> None:
    with pytest.raises(TooSlowError, match=r"only \d{4} bytes came in 10 s"):
        read_body(*[0.1] * 200, *[5.0] * 200)


def test_the_least_rate_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, "100")
    assert len(read_body(*[9.0] * 10)) == 10_000
    with pytest.raises(TooSlowError):
        read_body(11.0)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_a_rate_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, text)
    with pytest.raises(StoreError, match=f"ESVIT_STORE_MIN_BYTES_PER_S is '{text}'; set it to bytes per second"):
        Store("s3://bucket")


def test_more_bytes_have_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, "100")
    assert progress.limit_s(1000) == progress.limit_s(0) + 10
