"""Objects in parts from a real S3 server: a fault costs one part, slow requests are hedged, versions are not mixed."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.store.store
from pipeline.store import ReplacedObjectError, Store
from pipeline.telemetry import STORE_HEDGES, STORE_READ_BYTES
from support.caches import open_cache
from support.fault_proxy import Fault, FaultProxy, fault_proxy
from support.shards import image, jpegs, write_shards

pytestmark = [pytest.mark.s3, pytest.mark.alone]

PART = 2**18
CONTENT = os.urandom(10 * PART + 1)


@pytest.fixture
def url(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new place, with the object `x`."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pipeline.store.store, "_PART_BYTES", PART)
    url: str = s3_server.new_url()
    Store(url).put("x", CONTENT)
    return url


@pytest.fixture
def proxy(url: str, s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the server, for this process."""
    assert url
    with fault_proxy(s3_server.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        yield proxy


def test_a_cut_part_is_lost_alone(url: str, proxy: FaultProxy) -> None:
    asked: list[str] = []
    proxy.choose = lambda _method, target: asked.append(target)
    proxy.faults.append(Fault("torn", "GET", "x", times=3))
    before, hedges = STORE_READ_BYTES._value.get(), STORE_HEDGES._value.get()
    assert Store(url).read("x") == CONTENT
    assert STORE_READ_BYTES._value.get() - before == len(CONTENT)
    # And three that were cut. On a busy machine a part may look slow enough to be asked for again.
    assert len(asked) <= 11 + STORE_HEDGES._value.get() - hedges


def test_a_slow_request_is_asked_again_instead_of_waited_for(url: str, proxy: FaultProxy) -> None:
    store, proxy.late_s = Store(url), 20.0
    before = STORE_HEDGES._value.get()
    for _ in range(3):
        store.read("x")
    proxy.faults.append(Fault("late", "GET", "x"))
    begin_s = time.monotonic()
    assert store.read("x") == CONTENT
    assert time.monotonic() - begin_s < 10
    assert STORE_HEDGES._value.get() - before >= 1


def test_a_store_that_is_slow_as_a_whole_is_not_asked_for_twice_as_much(
    url: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.store.store, "_PART_BYTES", 2 * PART)  # six, of which the first comes alone
    store, proxy.late_s = Store(url), 1.3
    before = STORE_HEDGES._value.get()
    proxy.choose = lambda _method, _target: "late"
    assert store.read("x") == CONTENT
    assert STORE_HEDGES._value.get() - before <= 2


def test_an_object_that_is_replaced_between_parts_is_noticed(url: str) -> None:
    store = Store(url)
    parts = store.parts("x")
    assert next(parts) == CONTENT[:PART]
    store.put("x", bytes(len(CONTENT)))
    with pytest.raises(ReplacedObjectError, match=rf"cannot read {url}/x: it was replaced by another object"):
        list(parts)


def test_a_shard_that_is_replaced_by_its_like_is_fetched_once_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(url, jpegs(100))
    monkeypatch.setattr(pipeline.store.store, "_PART_BYTES", 2**14)
    store, replaced = Store(url), list[str]()
    parts = Store.parts

    def replacing(store: Store, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        whole = parts(store, name, start, stop)
        yield next(whole)
        if name.endswith(".tar") and not replaced:
            replaced.append(name)
            original = b"".join(parts(store, name))
            store.put(name, original[::-1])
            try:
                yield from whole
            finally:
                store.put(name, original)
        yield from whole

    monkeypatch.setattr(Store, "parts", replacing)
    assert image(open_cache(store, tmp_path).shard(0), 3) == jpegs(1, 3)[0]
    assert replaced
