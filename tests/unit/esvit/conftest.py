"""Shards for training runs inside the tests' own process."""

import pytest

from support.tiny_runs import write_images


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_images(tmp_path_factory.mktemp("tiny-shards"))
