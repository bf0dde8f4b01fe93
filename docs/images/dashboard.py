"""Draw the panels of configs/observability/dashboard.json from a Prometheus that has scraped a run.

python docs/images/dashboard.py http://127.0.0.1:9090 RUN > docs/images/dashboard.svg

Titles, places, units and queries are those of the dashboard. The drawing is not Grafana's.
"""

import json
import math
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chart import line_chart, page, text

DASHBOARD = Path(__file__).parents[2] / "configs/observability/dashboard.json"
COLUMN, ROW, GAP, NUM_COLUMNS = 44, 22, 6, 24
WINDOW = "12s"  # of a rate; the scrape interval was 2 s
STEP_S = 2


def main() -> None:
    """Address of Prometheus, and the name of the run."""
    prometheus, run = sys.argv[1:]
    begin, end = span(prometheus, run)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    parts = [part for panel in panels for part in draw(panel, prometheus, run, begin, end)]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW + GAP
    sys.stdout.write(page(NUM_COLUMNS * COLUMN + GAP, height, f"The dashboard's panels for the run {run}", parts))


def ask(prometheus: str, path: str, **words: object) -> list[dict[str, Any]]:
    """The series that answer a query."""
    query = urllib.parse.urlencode(words)
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}?{query}") as answer:
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def span(prometheus: str, run: str) -> tuple[float, float]:
    """When the run made its first and its last step, in seconds since 1970."""
    (series,) = ask(prometheus, "query", query=f'esvit_train_steps_total{{run="{run}",rank="0"}}[1h]')
    moments = [moment for moment, count in series["values"] if float(count) > 0]
    return moments[0], moments[-1]


def draw(panel: dict[str, Any], prometheus: str, run: str, begin: float, end: float) -> list[str]:
    """A row's heading, the newest values of a stat, or the lines of a time series."""
    place = panel["gridPos"]
    left, top = GAP + place["x"] * COLUMN, GAP + place["y"] * ROW
    width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
    if panel["type"] == "row":
        return [text(left, top + 13, panel["title"], "name")]
    show = UNITS[panel["fieldConfig"]["defaults"].get("unit", "none")]
    series = {}
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", WINDOW).replace("$run", run)
        for found in ask(prometheus, "query_range", query=query, start=begin, end=end, step=STEP_S):
            points = [
                (moment - begin, float(value)) for moment, value in found["values"] if math.isfinite(float(value))
            ]
            if points:
                series[legend(target.get("legendFormat", ""), found["metric"])] = points
    parts = [f'<rect class="panel" x="{left}" y="{top}" width="{width}" height="{height}" rx="5"/>']
    parts.append(text(left + 10, top + 18, panel["title"], "name"))
    if panel["type"] == "stat":
        share = width / len(series)
        for number, (name, points) in enumerate(series.items()):
            middle = left + share * (number + 0.5)
            parts.append(text(middle, top + height - 28, show(points[-1][1]), "big", "middle"))
            parts.append(text(middle, top + height - 9, name, "small", "middle"))
        return parts
    return parts + line_chart((left + 62, top + 32, width - 78, height - 60), series, show, (0, end - begin), True)


def legend(template: str, labels: dict[str, str]) -> str:
    """Grafana's `rank {{rank}}`."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def scaled(unit: str, *prefixes: tuple[float, str]) -> Callable[[float], str]:
    """Formats a value with the first prefix that it reaches."""

    def show(value: float) -> str:
        size, prefix = next((pair for pair in prefixes if abs(value) >= pair[0]), (1.0, ""))
        return f"{value / size:.3g} {prefix}{unit}".strip()

    return show


UNITS: dict[str, Callable[[float], str]] = {
    "none": "{:.3g}".format,
    "short": "{:.3g}".format,
    "sci": "{:.1e}".format,
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "s": lambda value: f"{value:.3g} s" if abs(value) >= 1 or not value else f"{1000 * value:.3g} ms",
    "Bps": scaled("B/s", (1e9, "G"), (1e6, "M"), (1e3, "k")),
    "suffix: img/s": "{:.0f} img/s".format,
}


if __name__ == "__main__":
    main()
