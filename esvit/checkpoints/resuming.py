"""Which checkpoint a run goes on from; and that it neither starts over nor overwrites what it cannot read.

Two states of a folder are usual, and need no word: a kill leaves a `.pt` file without a note, newer than `latest.json`
knows; or, in a new folder, nothing else than that file. All else that cannot be read is a fault. A run goes back past
one faulty checkpoint, says so, and moves it to `damaged/`. It does not go back further, nor to a state without a step.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esvit.checkpoints import files, lease
from esvit.checkpoints.files import CheckpointError, name_of, note_of
from pipeline.store import Store

_RECORDS = ("log.jsonl", "samples-rank-*.jsonl")


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that can be read.

    Attributes:
        name: `step-NNNNNNNN.pt`.
        saved: Its state.
        damaged: The names of newer checkpoints, which cannot be read.
    """

    name: str
    saved: dict[str, Any]
    damaged: tuple[str, ...]


def newest(store: Store, say: Callable[[str], None]) -> Found | None:
    """The newest undamaged checkpoint; None where there is no checkpoint.

    Damaged checkpoints are skipped; `say` gets a line for each.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    damaged = list[str]()
    for name in _candidates(store):
        try:
            return Found(name, files.read(store, name), tuple(damaged))
        except CheckpointError as error:
            damaged.append(name)
            say(f"{error}; falling back to the checkpoint before it")
    if damaged:
        raise CheckpointError(f"all {len(damaged)} checkpoints in {store.url} are damaged; remove them to start anew")
    return None


def to_resume(store: Store, say: Callable[[str], None]) -> Found | None:
    """As `newest`, but goes back past one damaged checkpoint at most.

    Raises:
        CheckpointError: several are damaged, or only the state before the first step is left.
    """
    found = newest(store, say)
    if found and found.damaged and (len(found.damaged) > 1 or found.saved["step"] == 0):
        raise CheckpointError(
            f"{len(found.damaged)} of the checkpoints in {store.url} cannot be read, the newest is {found.damaged[0]}; "
            f"copy the right files there, or move the damaged ones and {files.LATEST} away to go on from {found.name}"
        )
    return found


def check_unchanged(store: Store, found: Found | None) -> None:
    """Raise `CheckpointError` if another run has written a checkpoint since `found` was read."""
    known = (found.name, *found.damaged) if found else ()
    newer = [name for name in files.names(store) if name not in known and (not found or name > found.name)]
    if newer:
        raise CheckpointError(
            f"another run has just written {store.url}/{newer[-1]}; run the same command again to go on from there"
        )


def refuse_start_over(store: Store, output: Path, first_step: int) -> None:
    """Refuse to begin a run where files show that one has been here.

    Args:
        store: The checkpoints.
        output: The output folder.
        first_step: Where the run begins. A killed start may have left the unfinished file of this step.

    Raises:
        CheckpointError: there is such a file; the message names it.
    """
    first = name_of(first_step)
    found = [f"{store.url}/{name}" for name in store.list() if name != first and not name.startswith(lease.FOLDER)]
    found += [str(path) for pattern in _RECORDS for path in sorted(output.glob(pattern)) if path.is_file()]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise CheckpointError(
            f"there is no checkpoint to go on from in {store.url}, but files of a run: {found[0]}{more}; copy the "
            "missing files back, choose another output, or start from nothing with checkpoint.allow_start_over=true"
        )


def set_aside(store: Store, found: Found, say: Callable[[str], None]) -> None:
    """Move the damaged checkpoints to `damaged/`: the run will write others of the same names."""
    if not found.damaged:
        return
    for name in found.damaged:
        for part in filter(store.exists, (note_of(name), name)):
            source = store.local_path(part) or store.read(part)
            places = (f"damaged/{part}" + f".{number}" * (number > 1) for number in itertools.count(1))
            place = next(place for place in places if store.put_new(place, source))
            store.delete(part)
            say(f"moved {store.url}/{part} to {place}")
    files.put_latest(store, found.saved["step"])


def _candidates(store: Store) -> list[str]:
    """The `.pt` files that are, or should be, checkpoints; newest first."""
    listed, latest = set(store.list("step-")), files.latest_step(store)
    data = {name for name in listed if files.is_name(name)}
    noted = {name for name in map(_data_of, listed - data) if files.is_name(name)}
    if latest is not None:  # it may also be newer than the listing
        return sorted(noted | {name_of(latest)}, reverse=True)
    if not noted and len(data) == 1:  # the first write of a run was killed
        return []
    return sorted(noted | data, reverse=True)  # without latest.json, a file without a note may be half-copied


def _data_of(note: str) -> str:
    return note.removesuffix(".json") + ".pt"
