"""Requests that fail: what is tried again, for how long, and the sentence at the end."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import pipeline.store.hedge
import pipeline.store.retry
import pipeline.store.store
from pipeline.store import Store, StoreError
from pipeline.telemetry import STORE_ERRORS


class FlakyHandler(BaseHTTPRequestHandler):
    """An S3 bucket of one object whose first answers fail as the test says."""

    content = bytes(range(256)) * 4000
    faults: list[str] = []  # noqa: RUF012 (the test fills it)
    ranges: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(200, self.content, body=False)

    def do_GET(self) -> None:
        self.ranges.append(self.headers["Range"])
        fault = self.faults.pop(0) if self.faults else ""
        status, _, retry_after = fault.partition(" ")
        if status.isdigit():
            self._answer(int(status), b"<Error><Code>%s</Code></Error>" % status.encode(), retry_after=retry_after)
            return
        start, end = (int(position) for position in self.headers["Range"][6:].split("-"))
        part = self.content[start : end + 1]
        if fault == "cut":
            self._answer(206, part, body=False, start=start)
            self.wfile.write(part[: len(part) // 3])
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._answer(206, part, start=start)

    def _answer(self, status: int, content: bytes, body: bool = True, retry_after: str = "", start: int = 0) -> None:
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{len(self.content)}")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FlakyHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    set_aws(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    FlakyHandler.faults, FlakyHandler.ranges = [], []
    # On a busy machine second requests would enter the record, and take faults meant for the first.
    monkeypatch.setattr(pipeline.store.hedge, "_MIN_PATIENCE_S", 600.0)
    yield Store("s3://bucket/prefix")
    server.shutdown()
    thread.join()
    server.server_close()


def set_aws(monkeypatch: pytest.MonkeyPatch, endpoint_url: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def test_cut_transfers_go_on_with_smaller_ranges(
    flaky_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.store.store, "_PART_BYTES", 2**19)
    monkeypatch.setattr(pipeline.store.store, "_MIN_PART_BYTES", 2**17)
    FlakyHandler.faults += ["", "cut", "cut", "503", "500"]
    cuts_before = STORE_ERRORS.labels(kind="cut")._value.get()
    flaky_store.download("x", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == FlakyHandler.content
    assert STORE_ERRORS.labels(kind="cut")._value.get() - cuts_before == 2
    assert FlakyHandler.ranges[:4] == [
        "bytes=0-524287",
        "bytes=524288-1023999",
        "bytes=524288-774143",
        "bytes=524288-655359",
    ]


def test_patience_is_bounded(flaky_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.retry, "_PATIENCE_S", 0.5)
    FlakyHandler.faults += ["503"] * 1000
    with pytest.raises(StoreError, match=r"slow down.*\(gave up after \d+ tries\)"):
        flaky_store.read("x")


def test_a_store_that_asks_for_a_pause_gets_it(flaky_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.retry, "_MAX_PAUSE_S", 0.0)
    FlakyHandler.faults += ["503 1", ""]
    started_s = time.monotonic()
    flaky_store.read_range("x", 0, 10)
    assert 1.0 <= time.monotonic() - started_s < 5


def test_a_refusal_is_not_repeated(flaky_store: Store) -> None:
    FlakyHandler.faults += ["403"] * 10
    with pytest.raises(StoreError, match="permission denied"):
        flaky_store.read("x")
    assert len(FlakyHandler.ranges) == 1


def test_an_endpoint_that_never_answered_is_reported_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        set_aws(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(pipeline.store.retry, "_PATIENCE_NEVER_REACHED_S", 1.0)
        started_s = time.monotonic()
        with pytest.raises(StoreError, match=r"s3://bucket/x: the endpoint cannot be reached"):
            Store("s3://bucket").read("x")
    assert time.monotonic() - started_s < 8


def test_an_endpoint_that_is_no_url_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    set_aws(monkeypatch, "localhost:9000")
    with pytest.raises(StoreError, match="begins with http"):
        Store("s3://bucket").read("x")


def test_missing_credentials_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_aws(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no usable AWS credentials"):
        Store("s3://bucket").read("x")
