"""The metrics endpoint, and how Prometheus learns of it."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from pipeline import telemetry
from pipeline.telemetry import MetricsPortError, announce, exporter, start_exporter

METRICS = [metric for metric in vars(telemetry).values() if isinstance(metric, MetricWrapperBase)]


@pytest.fixture(scope="module")
def port() -> int:
    return start_exporter(0)


def test_every_metric_is_served(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    served = set(re.findall(r"^# TYPE (esvit_\w+) ", text, re.MULTILINE))
    expected = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for metric in METRICS
        for family in metric.describe()
    }
    assert served == expected and len(expected) == len(METRICS)
    assert "_created" not in text


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        (family,) = metric.describe()
        assert family.name.startswith("esvit_") and family.documentation
        assert not re.search(r"_(ms|mb|kb|percent)(_|$)", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_an_occupied_port_is_one_sentence(port: int) -> None:
    with pytest.raises(MetricsPortError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"):
        start_exporter(port)


def test_an_address_of_another_machine_is_one_sentence() -> None:
    with pytest.raises(MetricsPortError, match=r"cannot listen on 203\.0\.113\.1:0"):
        start_exporter(0, "203.0.113.1")


def test_a_number_that_is_no_port_is_one_sentence() -> None:
    with pytest.raises(MetricsPortError, match=r"cannot listen on 127\.0\.0\.1:65536 \(.*0-65535"):
        start_exporter(65536)


def test_an_exporter_gives_its_port_back() -> None:
    with exporter(0) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert b"esvit_" in response.read()
    with exporter(port) as again:
        assert again == port


def test_a_rank_announces_itself_as_a_file_sd_target(tmp_path: Path) -> None:
    folder = tmp_path / "targets"
    announce(folder, rank=3, address="10.0.0.7", port=9000, run="old")
    path = announce(folder, rank=3, address="10.0.0.7", port=9001, run="new")
    assert json.loads(path.read_text()) == [{"targets": ["10.0.0.7:9001"], "labels": {"rank": "3", "run": "new"}}]
    assert list(folder.iterdir()) == [folder / "rank-3.json"]
