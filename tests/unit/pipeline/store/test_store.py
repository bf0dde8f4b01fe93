"""The store on local folders and in memory, and its sentences about what goes wrong."""

import multiprocessing
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import pipeline.store.hedge
import pipeline.store.retry
import pipeline.store.store
from pipeline.format.manifest import MANIFEST_NAME, ManifestError
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store, StoreError
from pipeline.telemetry import STORE_ERRORS, STORE_READ_BYTES


@pytest.fixture(params=["path", "file-url", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    folder = tmp_path / "new" / "store"
    urls = {"path": f"{folder}/", "file-url": f"file://{folder}", "memory": f"memory://{tmp_path.name}"}
    return Store(urls[request.param])


def test_objects_come_back(store: Store) -> None:
    store.put("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.size("a/b.bin") == 10
    assert store.exists("a/b.bin") and not store.exists("a") and not store.exists("c")


def test_put_replaces_and_put_new_does_not(store: Store) -> None:
    assert store.put_new("x", b"one") is True
    assert store.put_new("x", b"two") is False
    assert store.read("x") == b"one"
    store.put("x", b"three")
    assert store.read("x") == b"three"


def test_files_go_up_and_down(store: Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(100_000))
    assert store.put_new("x", tmp_path / "up")
    store.download("x", tmp_path / "down")
    assert (tmp_path / "up").read_bytes() == (tmp_path / "down").read_bytes()


def test_empty_objects(store: Store, tmp_path: Path) -> None:
    store.put("empty", b"")
    store.download("empty", tmp_path / "down")
    assert store.read("empty") == (tmp_path / "down").read_bytes() == b""


def test_list_and_delete(store: Store) -> None:
    assert store.list() == []
    for name in ("b", "a/2", "a/1", "ab"):
        store.put(name, b"x")
    assert store.list() == ["a/1", "a/2", "ab", "b"]
    assert store.list("a/") == ["a/1", "a/2"]
    assert store.list("a") == ["a/1", "a/2", "ab"]
    store.delete("a/1")
    store.delete("a/1")
    assert store.list("a/") == ["a/2"]


def test_a_folder_is_no_object(store: Store) -> None:
    store.put("a/b", b"x")
    with pytest.raises(StoreError, match=r"a: there is no such object$"):
        store.size("a")


def test_a_store_has_one_name(tmp_path: Path) -> None:
    assert Store(f"{tmp_path}//").url == Store(tmp_path).url == str(tmp_path)
    assert Store("/").url == "/"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_a_client_of_its_own(store: Store) -> None:
    store.put("x", b"1")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if store.exists("x") and store._client.pid == os.getpid() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_sentences_name_object_and_cause(store: Store) -> None:
    store.put("x", b"0123")
    with pytest.raises(StoreError, match=rf"cannot read {store.url}/y: there is no such object$"):
        store.read("y")
    with pytest.raises(StoreError, match=rf"cannot read {store.url}/x: it "):
        store.read_range("x", 2, 3)


def test_long_ranges_are_fetched_in_pieces(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.store, "_PART_BYTES", 7)
    store.put("x", bytes(range(100)))
    before = STORE_READ_BYTES._value.get()
    assert store.read_range("x", 10, 50) == bytes(range(10, 60))
    store.download("x", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == bytes(range(100))
    assert STORE_READ_BYTES._value.get() - before == 150


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: store.put_new("x", b"%d" % i), range(16)))
    assert won.count(True) == 1
    assert store.read("x") == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_half_written_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".0123.part").write_bytes(b"left over by a killed writer")
    (tmp_path / ".scratch-1.part").mkdir()
    (tmp_path / ".scratch-1.part/shard.tar").write_bytes(b"left over by a killed builder")
    assert Store(tmp_path).list() == []


def test_local_path_is_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a/x", b"1")
    path = store.local_path("a/x")
    assert path is not None and path.read_bytes() == b"1"
    assert Store("memory://x").local_path("a") is None


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="is not a folder"):
        Store(tmp_path / "file").put_new("x", b"1")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("x", b"1" * 100_000)
    with pytest.raises(StoreError, match=r"cannot write /dev/full: the disk is full"):
        store.download("x", "/dev/full")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        Store(tmp_path).put("x", b"1")


@pytest.mark.parametrize("url", ["nosuch://x", "s4://bucket"])
def test_an_unknown_protocol_is_reported(url: str) -> None:
    with pytest.raises(StoreError, match=f"cannot use {url} as a store"):
        Store(url)


def test_an_error_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(TypeError):
        store.put("x", object())  # type: ignore[arg-type]


def test_survives_pickling_and_spawn(tmp_path: Path) -> None:
    store = pickle.loads(pickle.dumps(Store(tmp_path)))
    store.put("x", b"1")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(store.read, ("x",)) == b"1"


def test_manifest_is_missing_or_wrong(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        read_manifest(store)
    store.put(MANIFEST_NAME, b"{}")
    with pytest.raises(ManifestError, match=rf"manifest {tmp_path}/manifest\.json"):
        read_manifest(store)


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


def test_scratch_in_a_store_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StoreError, match=r"cannot write .*file: .*is not a folder"),
        Store(tmp_path / "file").scratch_folder(),
    ):
        pass
