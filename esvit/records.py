"""The records that a run appends to, cut back when it goes on from a checkpoint: each step is in them once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.store.atomic import write_file


def cut_back(output: Path, step: int, steps_per_pass: int, num_ranks: int) -> None:
    """The run in `output` goes on from `step` on `num_ranks` ranks: forget what was recorded of later steps.

    `log.jsonl` and the samples files, those of ranks that are gone too, lose later steps and a half-written last line.
    The targets of ranks that are gone are removed.

    Raises:
        OSError: a file cannot be read or written.
    """
    _keep(output / "log.jsonl", lambda record: record["step"] <= step)
    for path in output.glob("samples-rank-*.jsonl"):
        _keep(path, lambda record: record["epoch"] * steps_per_pass + record["step"] < step)
    for path in (output / "targets").glob("rank-*.json"):
        number = path.stem.removeprefix("rank-")
        if number.isdigit() and int(number) >= num_ranks:
            path.unlink(missing_ok=True)


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a file of one JSON object per line, at once or not at all, if it has a line that is not wanted."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_wanted(line, wanted)]
    if kept != lines:
        write_file(path, b"".join(kept), replace=True)


def _is_wanted(line: bytes, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return wanted(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return False  # no record of ours
