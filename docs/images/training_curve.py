"""Draw the loss of `make demo`, both phases in a row, from their logs, with the k-NN scores that it printed.

python docs/images/training_curve.py demo-output/digits/seed-0 54.9 68.0 71.5 > docs/images/training_curve.svg
"""

import json
import sys
from pathlib import Path

from chart import line_chart, page, text

LEFT, TOP, WIDTH, HEIGHT = 60, 66, 780, 220


def main() -> None:
    """Folder of the demo's runs, and the top-1 at initialisation, after the view task and after both."""
    folder, scores = Path(sys.argv[1]), sys.argv[2:5]
    view, region = (
        [json.loads(line) for line in (folder / phase / "log.jsonl").read_text().splitlines()]
        for phase in ("view", "region")
    )
    start = view[-1]["epoch"]
    end = start + region[-1]["epoch"]
    series = {
        "loss, view task alone": [(record["epoch"], record["loss"]) for record in view],
        "loss, view + region": [(start + record["epoch"], record["loss"]) for record in region],
        "view term": [(start + record["epoch"], record["view"]) for record in region],
        "region term": [(start + record["epoch"], record["region"]) for record in region],
    }
    parts = [text(LEFT, 26, "make demo: loss over epochs, and k-NN top-1 of the teacher", "name")]
    parts += line_chart((LEFT, TOP, WIDTH, HEIGHT), series, "{:.1f}".format, (0, end))
    for epoch, score, anchor in zip((0, start, end), scores, ("start", "middle", "end"), strict=True):
        x = LEFT + WIDTH * epoch / end
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}"/>')
        parts.append(text(x, TOP - 8, f"k-NN {score} %", "name", anchor))
        parts.append(text(x, TOP + HEIGHT + 34, f"epoch {epoch:.0f}", "small", anchor))
    sys.stdout.write(page(LEFT + WIDTH + 30, TOP + HEIGHT + 46, "Loss of the demo over epochs", parts))


if __name__ == "__main__":
    main()
