"""Tools that PyPI's pins cannot give; `make services` installs them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import write_tiny_images
from support.prometheus import CONFIGS, Prometheus, run_prometheus
from support.training import build_shards

SERVICES = Path(__file__).parents[2] / ".venv/services"


def _installed(name: str, path: str | Path | None) -> Path:
    """The path of a tool. Where it is missing the test is skipped, but in CI it fails."""
    if path and Path(path).exists():
        return Path(path)
    message = f"{name} is not installed; run 'make services'"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of the images of `tiny_image_folder`. All tests read them; none may change them."""
    folder = tmp_path_factory.mktemp("tiny")
    build_shards(write_tiny_images(folder / "images"), str(folder / "shards"))
    return str(folder / "shards")


@pytest.fixture
def promtool() -> Path:
    """The checker that comes with Prometheus."""
    return _installed("Prometheus", shutil.which("promtool"))


@pytest.fixture
def sky_python() -> Path:
    """An interpreter that has SkyPilot."""
    return _installed("SkyPilot", SERVICES / "sky/bin/python")


@pytest.fixture
def grafana_types() -> Path:
    """A `node_modules` with Grafana's schema and the TypeScript compiler."""
    return _installed("Grafana's schema", SERVICES / "node_modules/@grafana/schema").parents[1]


@pytest.fixture
def prometheus(promtool: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus on configs/observability/prometheus.yml; announce endpoints in its `targets_dir`."""
    assert promtool
    with run_prometheus(CONFIGS / "prometheus.yml", tmp_path / "prometheus") as server:
        yield server
