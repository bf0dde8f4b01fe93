"""A real Prometheus on the project's configuration, and the queries of the dashboard."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parents[2] / "configs/observability"
FASTER = {"scrape_interval": "1s", "evaluation_interval": "1s"}


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus that scrapes, every second, the targets in the *.json files of `targets_dir`."""

    url: str
    targets_dir: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector of a PromQL expression now: [{"metric": labels, "value": [time, "number"]}, ...]."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def get(self, endpoint: str, **parameters: str) -> Any:
        """The data of one call of the HTTP API."""
        url = f"{self.url}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]


@contextlib.contextmanager
def run_prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run `config` with its rules and relabelling, but faster, and with targets from `folder/targets` only."""
    targets_dir = folder / "targets"
    targets_dir.mkdir(parents=True)
    content = yaml.safe_load(config.read_text())
    content["global"] |= FASTER
    content["rule_files"] = [str(config.parent / name) for name in content["rule_files"]]
    for job in content["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)
        job["file_sd_configs"] = [{"files": [f"{targets_dir}/*.json"], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
    port = _free_port()
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process, folder / "prometheus.log")
            yield Prometheus(f"http://127.0.0.1:{port}", targets_dir)
        finally:
            process.terminate()


def dashboard_queries() -> dict[str, str]:
    """The PromQL of every dashboard panel, by "title / legend", for any run and with rates over ten seconds."""
    panels = json.loads((CONFIGS / "dashboard.json").read_text())["panels"]
    return {
        f"{panel['title']} / {target['legendFormat']}": target["expr"]
        .replace('run="$run"', 'run=~".+"')
        .replace("$__rate_interval", "10s")
        for panel in panels
        for target in panel.get("targets", [])
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus did not start: {log.read_text()[-2000:]}")
