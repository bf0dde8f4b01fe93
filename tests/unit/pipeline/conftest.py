"""A small shard set that many tests only read."""

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
