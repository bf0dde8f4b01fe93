"""The statistics of a data set as one self-contained HTML page: tables, and plots in SVG."""

import html
from collections.abc import Sequence
from typing import Any

from pipeline.printable import printable

_WIDTH, _HEIGHT = 720, 180  # pixels of a plot
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; border-bottom: 1px solid #d8dee4 }
th { text-align: left } td { text-align: right; font-variant-numeric: tabular-nums } svg { max-width: 100% }
rect.bar { fill: #2f6fbb } rect.bar:hover { fill: #d9822b } text { font-size: 12px; fill: #57606a }
details { margin: 1rem 0 }
"""
_UNITS = {"image_height": "pixels", "image_width": "pixels", "image_bytes": "bytes"}


def render_page(stats: dict[str, Any]) -> str:
    """The HTML page of the result of `collect_stats`."""
    title = _text(f"{stats['dataset']}, {stats['split']}")
    facts = [(name, stats[name]) for name in ("num_samples", "num_rejects", "num_classes", "num_shards", "num_bytes")]
    body = [
        f"<h1>{title}</h1><p>{_text(stats['url'])}<br>manifest digest <code>{stats['digest']}</code></p>",
        _table([(name.removeprefix("num_"), [f"{value:,}"]) for name, value in facts]),
        "<h2>Samples per class</h2>" if stats["num_classes"] else "<p>The images are unlabelled.</p>",
        _classes(stats["samples_per_class"]) if stats["num_classes"] else "",
        *(_distribution(name, unit, stats[name]) for name, unit in _UNITS.items()),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _text(name: str) -> str:
    """A name from the data set, as text of the page."""
    return html.escape(printable(name))


def _table(rows: Sequence[tuple[str, Sequence[str]]], header: Sequence[str] = ()) -> str:
    first = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    lines = [
        f"<tr><th>{_text(name)}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>" for name, cells in rows
    ]
    return f"<table>{f'<tr>{first}</tr>' if first else ''}{''.join(lines)}</table>"


def _classes(counts: dict[str, int]) -> str:
    """Bars, largest class first, and a folded table, because it may be long."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    plot = _bars([count for _, count in rows], [f"{name}: {count:,}" for name, count in rows])
    table = _table([(name, [f"{count:,}"]) for name, count in rows])
    return f"{plot}<details><summary>all {len(rows):,} classes</summary>{table}</details>"


def _distribution(name: str, unit: str, found: dict[str, Any]) -> str:
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    titles = [
        f"{low:,.0f} to {high:,.0f} {unit}: {count:,}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    percentiles = found["percentiles"]
    cells = [f"{value:,}" for value in percentiles.values()]
    return (
        f"<h2>{name.replace('_', ' ').capitalize()} ({unit})</h2>{_bars(counts, titles)}"
        f"<p>From {edges[0]:,.0f} to {edges[-1]:,.0f}; larger values are in the last bar.</p>"
        f"{_table([(unit, cells)], ['percentile', *percentiles])}"
    )


def _bars(values: Sequence[int], titles: Sequence[str]) -> str:
    """One bar per value, with its title as a tooltip; the scale goes from 0 to the largest value."""
    width, top = _WIDTH / max(1, len(values)), max(1, *values)
    bars = [
        f'<rect class="bar" x="{i * width:.2f}" y="{_HEIGHT * (1 - value / top):.2f}" width="{width * 0.9:.2f}" '
        f'height="{_HEIGHT * value / top:.2f}"><title>{_text(title)}</title></rect>'
        for i, (value, title) in enumerate(zip(values, titles, strict=True))
    ]
    scale = f'<text x="{_WIDTH + 6}" y="12">{top:,}</text><text x="{_WIDTH + 6}" y="{_HEIGHT}">0</text>'
    return f'<svg viewBox="0 0 {_WIDTH + 80} {_HEIGHT}" width="{_WIDTH + 80}">{"".join(bars)}{scale}</svg>'
