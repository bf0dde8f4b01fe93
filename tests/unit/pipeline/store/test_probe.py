"""The probe: whether a store keeps what is there, at the cost of three requests."""

from pathlib import Path

import pytest

from pipeline.store import Store, StoreError
from pipeline.store.probe import overwrites
from support.tiny_s3 import tiny_s3


def test_a_server_that_ignores_the_condition_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny_s3(monkeypatch) as server:
        assert overwrites(Store("s3://bucket/a"))
        assert server.requests == ["PUT", "PUT", "DELETE"] and not server.objects


def test_a_store_that_keeps_what_is_there_passes(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    assert not overwrites(store)
    assert not store._client.fs.find(store._client.root)


def test_keys_that_may_not_delete_leave_an_object_that_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: Store, name: str) -> None:
        raise StoreError(f"cannot delete {name}")

    monkeypatch.setattr(Store, "delete", refuse)
    store = Store(f"memory://{tmp_path.name}")
    assert not overwrites(store) and len(store._client.fs.find(store._client.root)) == 1 and not store.list()


def test_a_local_folder_is_not_asked(tmp_path: Path) -> None:
    assert not overwrites(Store(tmp_path / "new")) and not list(tmp_path.iterdir())
