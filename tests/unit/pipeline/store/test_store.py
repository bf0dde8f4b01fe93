"""The store on local folders and in memory, and its sentences about what goes wrong."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import pipeline.store.hedge
import pipeline.store.retry
import pipeline.store.store
from pipeline.store import Store, StoreError
from pipeline.telemetry import STORE_READ_BYTES


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


def test_scratch_in_a_store_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StoreError, match=r"cannot write .*file: .*is not a folder"),
        Store(tmp_path / "file").scratch_folder(),
    ):
        pass


def test_a_short_answer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    store.put("x", b"0123456789")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: b"012")
    with pytest.raises(StoreError, match=r"cannot read memory://.*/x: its answer ends after 3 bytes"):
        store.read("x")
