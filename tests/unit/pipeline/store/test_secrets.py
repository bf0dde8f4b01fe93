"""Credentials are not taken from addresses, and the session token goes to no other host."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pipeline.store import Store, StoreError

TOKEN = "token-of-the-session"


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("s3://KEY:HU/SH@bucket/x", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3://KEY:HUSH@bucket/x", "or AWS_PROFILE and ~/.aws/credentials"),
        ("gs://KEY:HUSH@bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container/x?sig=HUSH", "AZURE_STORAGE_SAS_TOKEN"),
        ("https://user:HUSH@host/x", "the options of fsspec"),
        ("https://host/x?X-Amz-Signature=HUSH", "the options of fsspec"),
        ("zip://::https://user:HUSH@host/a.zip", "the options of fsspec"),
    ],
)  # fmt: skip
def test_an_address_with_credentials_is_refused(url: str, way: str) -> None:
    with pytest.raises(StoreError, match="the address contains a password, a key or a signature") as caught:
        Store(url)
    assert way in str(caught.value) and "***" in str(caught.value)
    assert "HUSH" not in str(caught.value) and "/SH" not in str(caught.value)


@contextmanager
def server(answer: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a web server on the loopback interface."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), answer)
    Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield running.server_port
    finally:
        running.shutdown()
        running.server_close()


class Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_carries_the_session_token_to_nobody(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Stranger(Silent):
        def do_GET(self) -> None:
            asked.append(str(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

    class Endpoint(Silent):
        def do_GET(self) -> None:
            assert self.headers["X-Amz-Security-Token"] == TOKEN
            self.send_response(status)
            self.send_header("Location", f"http://localhost:{stranger}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

    with server(Stranger) as stranger, server(Endpoint) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{endpoint}")
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "key")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = Store("s3://bucket/x")
        for request in (lambda: store.read("a"), store.list, lambda: store.exists("a")):
            with pytest.raises(StoreError, match="the store sends to another address, which is not followed"):
                request()
    assert asked == []
