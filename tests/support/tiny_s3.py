"""A server with the few requests of S3 that a store sends, and with habits that no real server can be told to have."""

import contextlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class TinyS3:
    """Its objects by path. It ignores `If-None-Match`, and sends drops of bytes where `drip` names them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        """The method of each request."""
        self.drip: set[str] = set()
        """"body": the bodies of objects; "head": the heads of all answers."""
        self.drop_bytes, self.every_s = 1, 0.1
        self.ended = threading.Event()

    def send(self, connection: Any, data: bytes, part: str) -> None:
        """Send `data`, in drops if the client is to wait for `part`."""
        if part not in self.drip:
            connection.write(data)
            return
        for start in range(0, len(data), self.drop_bytes):
            if self.ended.wait(self.every_s):
                return
            connection.write(data[start : start + self.drop_bytes])
            connection.flush()


@contextlib.contextmanager
def tiny_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyS3]:
    """The server, in use by the stores of this process: `Store("s3://bucket/...")`."""
    state = TinyS3()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # so that it answers "Expect: 100-continue"

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client went away
                super().handle()

        def _answer(self, status: int, content: bytes = b"", length: int | None = None) -> None:
            state.requests.append(self.command)
            self.close_connection = True
            head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(content) if length is None else length}\r\n"
            head += 'ETag: "1"\r\nConnection: close\r\n'
            if status == 206:
                head += f"Content-Range: bytes 0-0/{len(state.objects[self.path])}\r\n"
            state.send(self.wfile, f"{head}\r\n".encode(), "head")
            state.send(self.wfile, content, "body")

        def do_PUT(self) -> None:
            state.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200)

        def do_DELETE(self) -> None:
            state.objects.pop(self.path, None)
            self._answer(204)

        def do_HEAD(self) -> None:
            found = state.objects.get(self.path)
            self._answer(404) if found is None else self._answer(200, length=len(found))

        def do_GET(self) -> None:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self._answer(206, state.objects[self.path][first : last + 1])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield state
    state.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()
