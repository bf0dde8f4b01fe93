"""Results for people: tables on the terminal, a bar chart as SVG."""

from pathlib import Path
from xml.sax.saxutils import escape

from rich.table import Table

from pipeline.console import tables
from pipeline.errors import UserError

Rows = dict[str, dict[str, object]]

_BAR_HEIGHT, _LABEL_WIDTH, _CHART_WIDTH = 28, 130, 420


def print_table(title: str, rows: Rows) -> None:
    """Print one row per executor."""
    table = Table("executor", *next(iter(rows.values())), title=title)
    for name, columns in rows.items():
        table.add_row(name, *map(_cell, columns.values()))
    tables.print_table(table)


def write_chart(title: str, values: dict[str, float], path: Path) -> None:
    """Write horizontal bars, one per name.

    Raises:
        UserError: the file cannot be written.
    """
    largest = max(values.values())
    height = _BAR_HEIGHT * (len(values) + 1) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL_WIDTH + _CHART_WIDTH + 80}" height="{height}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="19" font-weight="bold">{escape(title)}</text>',
    ]
    for i, (name, value) in enumerate(values.items(), start=1):
        y, width = i * _BAR_HEIGHT + 4, max(1, round(_CHART_WIDTH * value / largest))
        parts.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{width}" height="{_BAR_HEIGHT - 8}" fill="#4c78a8"/>'
            f'<text x="{_LABEL_WIDTH + width + 6}" y="{y + 15}">{value:.1f}</text>'
        )
    try:
        path.write_text("\n".join([*parts, "</svg>"]) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {number:.3f}" for name, number in value.items())
    if isinstance(value, list):
        return " ".join(f"{number:.2f}" for number in value)
    return "-" if value is None else f"{value:.4g}"
