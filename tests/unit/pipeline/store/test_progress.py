"""A server that hardly moves: its answers are broken off and tried again, and in the end there is a sentence."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from pipeline.store import Store, StoreError, hedge, progress, retry
from pipeline.store.progress import TooSlowError
from pipeline.telemetry import STORE_ERRORS
from support.tiny_s3 import TinyS3, tiny_s3


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
    server.drip = {"body"}
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


def test_a_slow_body_that_moves_is_read_over_many_windows(server: TinyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WINDOW_S", 0.1)
    server.drip, server.drop_bytes, server.every_s = {"body"}, 100, 0.02
    before = num_slow()
    assert Store("s3://bucket").read("x") == server.objects["/bucket/x"]
    assert num_slow() == before


def test_a_body_that_ceases_to_move_is_not_waited_for_because_much_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WINDOW_S", 0.05)
    chunks = [bytes(10**6)]

    async def read(_num_bytes: int) -> bytes:
        if not chunks:
            await asyncio.sleep(100)
        return chunks.pop()

    with pytest.raises(TooSlowError, match="only 0 bytes came"):
        asyncio.run(asyncio.wait_for(progress.read_all(read), 5))


def test_the_least_rate_is_what_the_environment_says(server: TinyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, "5")
    server.objects["/bucket/x"], server.drip = b"123456789", {"body"}
    assert Store("s3://bucket").read("x") == b"123456789"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much"])
def test_a_rate_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, text)
    with pytest.raises(StoreError, match=f"ESVIT_STORE_MIN_BYTES_PER_S is '{text}'; set it to bytes per second"):
        Store("s3://bucket")


def test_more_bytes_have_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.MIN_RATE_VARIABLE, "100")
    assert progress.limit_s(1000) == progress.limit_s(0) + 10
