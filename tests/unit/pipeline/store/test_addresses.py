"""Every address and every way in which a file system can fail ends in a sentence that says what it was."""

import socket
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.store import MissingObjectError, Store, StoreError
from pipeline.store import retry as retry_module


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(retry_module, "_PATIENCE_NEVER_REACHED_S", 0.2)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "cannot use '' as a store: the address is empty; for this folder write '.'"),
        ("  ", "the address is empty"),
        ("a\0b", "the address contains a NUL byte"),
        ("s3://", "cannot use s3:// as a store: it names no bucket after s3://"),
        ("s3:///prefix", "it names no bucket after s3://"),
        ("gs:///", "it names no bucket after gs://"),
        ("az://", "it names no bucket after az://"),
        ("file://", "it names no place after file://"),
        ("https://", "it names no place after https://"),
        ("s3:/bucket/x", r"two slashes; did you mean s3://bucket/x\?"),
        ("s3:", "two slashes; did you mean s3://"),
        ("nosuch://x", "Protocol not known: nosuch"),
        ("github://x", "cannot use github://x as a store"),
        ("reference://x", "cannot use reference://x as a store"),
    ],
)
def test_what_is_no_address_is_refused(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=sentence):
        Store(url)
    assert list(tmp_path.iterdir()) == []  # no folder of that name


@pytest.mark.parametrize(("url", "root"), [("/", "/"), ("//", "/"), ("file:///", "/"), ("/tmp/", "/tmp"), (".", None)])
def test_local_addresses_are_taken(url: str, root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Store(url).local_path("x")) == str(Path(root or tmp_path) / "x")


@pytest.fixture
def refused() -> str:
    """Host and port where nothing answers."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("action", ["exists", "size", "read", "list"])
def test_a_refused_connection_is_no_missing_object(action: str, refused: str) -> None:
    store = Store(f"http://{refused}/data")
    with pytest.raises(StoreError, match="the endpoint cannot be reached") as caught:
        store.list() if action == "list" else getattr(store, action)("manifest.json")
    assert not isinstance(caught.value, MissingObjectError)


def test_a_file_system_that_connects_at_once_and_fails_is_explained(refused: str) -> None:
    host = refused.replace("127.0.0.1", "user@127.0.0.1")
    with pytest.raises(StoreError, match=r"cannot use ftp://.* as a store: .*(refused|reached)"):
        Store(f"ftp://{host}/data")


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A web server that gives every request this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "sentence"), [(403, "permission denied"), (500, "answered 500"), (503, "slow down")]
)
def test_only_404_is_a_missing_object(status: int, sentence: str) -> None:
    with answering(status) as url, pytest.raises(StoreError, match=sentence):
        Store(url).exists("manifest.json")
    with answering(404) as url:
        assert not Store(url).exists("manifest.json")
        with pytest.raises(MissingObjectError, match="there is no such object"):
            Store(url).read("manifest.json")


class OddError(Exception):
    """Of a client library that nobody has heard of."""


def test_an_exception_of_a_foreign_library_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def odd(*_: Any, **__: Any) -> None:
        raise OddError("line one\nline two " + "x" * 999)

    monkeypatch.setattr(MemoryFileSystem, "info", odd)
    store = Store("memory://odd")
    with pytest.raises(StoreError, match=r"cannot read memory://odd/x: line one line two x+ \.\.\.$") as caught:
        store.exists("x")
    assert len(str(caught.value)) < 500


def test_a_missing_object_in_a_zip_is_missing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", b"1")
    store = Store(f"zip://::{tmp_path}/a.zip")
    assert store.read("x") == b"1" and not store.exists("y")
    with pytest.raises(MissingObjectError):
        store.read("y")
