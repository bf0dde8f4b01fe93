"""Rules, scrape configurations and dashboard, checked by the tools that read them and against a real exporter."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from pipeline import telemetry
from support.prometheus import CONFIGS, Prometheus, dashboard_queries, run_prometheus

DASHBOARD = json.loads((CONFIGS / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((CONFIGS / "alerts.yml").read_text())["groups"][0]["rules"]
EXPRESSIONS = {**dashboard_queries(), **{rule["alert"]: rule["expr"] for rule in ALERTS}}
SAMPLE_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}
EXPORTER = """
import sys
from pipeline import telemetry

port = telemetry.start_exporter(0)
telemetry.STORE_ERRORS.labels("timeout").inc()
telemetry.announce(sys.argv[1], 3, "127.0.0.1", port, run="test")
sys.stdout.write(f"{port}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@contextlib.contextmanager
def _exporter(targets_dir: Path) -> Iterator[int]:
    """The port of a process that serves our metrics, announced as rank 3 of the run "test"."""
    command = [sys.executable, "-c", EXPORTER, str(targets_dir)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


def _run(*command: str | Path, data: bytes = b"") -> str:
    """What a checker says; empty if it is content."""
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode() if done.returncode else ""


def _eventually(get: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + 20
    while not (found := get()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return found


def test_configs_and_rules_are_valid(promtool: Path) -> None:
    assert _run(promtool, "check", "config", CONFIGS / "prometheus.yml") == ""
    assert _run(promtool, "check", "rules", CONFIGS / "alerts.yml") == ""
    assert _run(promtool, "test", "rules", CONFIGS / "alerts_test.yml") == ""


@pytest.mark.parametrize(
    ("rule", "mutated"),
    [("> 0.2", "> 0.3"), ("> 0.2", "> 0.1"), ("max by", "avg by"), ("for: 10m", "for: 5m"), ("== 0 or", "== 2 or")],
)
def test_the_tests_of_the_alerts_notice_a_changed_rule(rule: str, mutated: str, promtool: Path, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "alerts_test.yml", tmp_path)
    (tmp_path / "alerts.yml").write_text((CONFIGS / "alerts.yml").read_text().replace(rule, mutated))
    assert "FAILED" in _run(promtool, "test", "rules", tmp_path / "alerts_test.yml")


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_parse(name: str) -> None:
    promql_parser.parse(EXPRESSIONS[name])


def test_expressions_and_documentation_name_the_metrics_that_exist() -> None:
    metrics = [value for value in vars(telemetry).values() if isinstance(value, MetricWrapperBase)]
    families = [family for metric in metrics for family in metric.collect()]
    exposed = {family.name + suffix for family in families for suffix in SAMPLE_SUFFIXES[family.type]}
    used = set(re.findall(r"\besvit_\w+", " ".join(EXPRESSIONS.values())))
    assert used - exposed == set()
    table = re.findall(r"^\| `(esvit_\w+)", (CONFIGS / "../../docs/monitoring.md").read_text(), re.MULTILINE)
    endings = {"counter": "_total", "info": "_info"}
    assert sorted(table) == sorted(family.name + endings.get(family.type, "") for family in families)


def test_exporter_follows_the_conventions(promtool: Path, tmp_path: Path) -> None:
    with _exporter(tmp_path) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read()
    assert b'esvit_store_errors_total{kind="timeout"} 1.0' in text
    assert _run(promtool, "check", "metrics", data=text) == ""


def test_a_dead_rank_shows(prometheus: Prometheus) -> None:
    with _exporter(prometheus.targets_dir):
        (up,) = _eventually(lambda: prometheus.query("up == 1"))
        assert up["metric"] | {"instance": ""} == {
            "__name__": "up", "job": "esvit", "instance": "", "rank": "3", "run": "test",
        }  # fmt: skip
        assert prometheus.query("esvit_train_steps_total")[0]["metric"]["rank"] == "3"
        assert {rule["name"] for rule in prometheus.get("rules")["groups"][0]["rules"]} == {
            "EsvitDataStarvation",
            "EsvitRankStalled",
        }
    assert _eventually(lambda: prometheus.query("up == 0"))
    assert _eventually(lambda: prometheus.query('ALERTS{alertname="EsvitRankStalled", alertstate="pending"}'))


def test_kubernetes_pods_become_ranks(promtool: Path, tmp_path: Path) -> None:
    assert promtool
    # Debian's Prometheus is built without Kubernetes; the labels that it would discover stand in a file instead.
    pod = {
        "__meta_kubernetes_pod_label_app": "esvit-train",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_port_name": "metrics-3",
        "__meta_kubernetes_pod_label_batch_kubernetes_io_job_name": "esvit-train",
        "__meta_kubernetes_pod_label_batch_kubernetes_io_job_completion_index": "1",
    }
    changes = [
        {},
        {"__meta_kubernetes_pod_label_app": "another"},
        {"__meta_kubernetes_pod_phase": "Succeeded"},
        {"__meta_kubernetes_pod_container_port_name": "rendezvous"},
    ]
    groups = [{"targets": [f"127.0.0.1:{i + 1}"], "labels": pod | change} for i, change in enumerate(changes)]
    with run_prometheus(CONFIGS / "prometheus-kubernetes.yml", tmp_path / "prometheus") as server:
        (server.targets_dir / "pods.json").write_text(json.dumps(groups))
        (target,) = _eventually(lambda: server.get("targets")["activeTargets"])
    assert target["labels"] == {
        "instance": "127.0.0.1:1", "job": "esvit", "run": "esvit-train", "rank": "1-3",
    }  # fmt: skip


def test_dashboard_fits_grafanas_types(grafana_types: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(grafana_types)
    shutil.copy(CONFIGS / "dashboard.json", tmp_path)
    (tmp_path / "dashboard.ts").write_text(
        "import type { Dashboard } from '@grafana/schema';\nimport json from './dashboard.json';\n"
        "export const dashboard: Dashboard = json as Dashboard;\n"
    )
    options = ["--noEmit", "--skipLibCheck", "--resolveJsonModule", "--module", "esnext"]
    options += ["--moduleResolution", "bundler"]
    assert _run(grafana_types / ".bin/tsc", *options, tmp_path / "dashboard.ts") == ""


def test_dashboard_panels_are_complete() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "run"}
    assert len(dashboard_queries()) == sum(len(panel["targets"]) for panel in PANELS)


def test_dashboard_panels_do_not_overlap() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for a, b in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)
