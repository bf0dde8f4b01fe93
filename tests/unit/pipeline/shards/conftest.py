"""A remote store that the tests of caches read and damage."""

from pathlib import Path

import pytest

from pipeline.store import Store
from support.shards import jpegs, write_shards


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    """A store that is not a local folder, with four shards of three images."""
    store = Store(f"memory://{tmp_path.name}")
    write_shards(store.url, *(jpegs(3, 3 * shard) for shard in range(4)))
    return store
