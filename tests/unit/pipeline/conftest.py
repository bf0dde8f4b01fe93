"""A small shard set that many tests only read."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.shards import jpegs, write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 images in five shards of 9, 1, 12, 8 and 7."""
    folder = tmp_path_factory.mktemp("shards")
    images = jpegs(37)
    write_shards(folder, images[:9], images[9:10], images[10:22], images[22:30], images[30:])
    return folder


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to SIGINT. A job in the background of a shell inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not have its checksum is read again at once."""
    monkeypatch.setattr("pipeline.shards.verified._PAUSES_S", (0, 0))
