"""Line charts as SVG that are readable on light and on dark pages. The other scripts here use it."""

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

STYLE = """<style>
.page { fill: #ffffff } .panel { fill: #f7f9fb; stroke: #d5dde5 }
text { fill: #1c2733 } .small { fill: #51606f; font-size: 11px }
.name { font-weight: 600 } .big { font-size: 24px; font-weight: 600 }
.grid { stroke: #dfe6ec } .mark { stroke: #8796a8; stroke-dasharray: 4 4 }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.c0 { stroke: #2f6fb3 } .c1 { stroke: #d1682b } .c2 { stroke: #3b8f5a } .c3 { stroke: #8a5bb5 }
.t0 { fill: #2f6fb3 } .t1 { fill: #d1682b } .t2 { fill: #3b8f5a } .t3 { fill: #8a5bb5 }
@media (prefers-color-scheme: dark) {
.page { fill: #12171d } .panel { fill: #1a2129; stroke: #35414d }
text { fill: #e7edf3 } .small { fill: #a9b6c3 }
.grid { stroke: #2b3641 } .mark { stroke: #6d7d8e }
.c0 { stroke: #6fb1f5 } .c1 { stroke: #f39a5f } .c2 { stroke: #72c993 } .c3 { stroke: #bd94e6 }
.t0 { fill: #6fb1f5 } .t1 { fill: #f39a5f } .t2 { fill: #72c993 } .t3 { fill: #bd94e6 }
}
</style>"""


def page(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """The whole file. `title` is what it shows, for those who cannot see it."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13"><title>{escape(title)}</title>'
    )
    ground = f'<rect class="page" width="{width}" height="{height}" rx="10"/>'
    return "\n".join([head, STYLE, ground, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def line_chart(
    box: tuple[float, float, float, float],
    series: dict[str, Points],
    show: Callable[[float], str],
    x_range: tuple[float, float],
    from_zero: bool = False,
) -> list[str]:
    """Lines in `box` (left, top, width, height), with a grid of values, and a legend below where lines have names."""
    left, top, width, height = box
    values = [y for points in series.values() for _, y in points]
    if not values:
        return [text(left + width / 2, top + height / 2, "no data", "small", "middle")]
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    step = _round_step((high - low) or abs(high) or 1.0)
    low, high = math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step
    high = high if high > low else low + step

    def place(x: float, y: float) -> str:
        across = left + width * (x - x_range[0]) / (x_range[1] - x_range[0])
        return f"{across:.1f},{top + height * (high - y) / (high - low):.1f}"

    parts = []
    for i in range(round((high - low) / step) + 1):
        y = top + height - height * i * step / (high - low)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(left - 5, y + 4, show(low + i * step), "small", "end"))
    legend = left
    for number, (name, points) in enumerate(series.items()):
        drawn = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline class="c{number % 4}" points="{drawn}"/>')
        if name:
            parts.append(text(legend, top + height + 15, name, f"small t{number % 4}"))
            legend += 7 * len(name) + 14
    return parts


def _round_step(extent: float) -> float:
    """1, 2 or 5 times a power of ten, for three to five lines."""
    power = 10 ** math.floor(math.log10(extent / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 4 >= extent)
