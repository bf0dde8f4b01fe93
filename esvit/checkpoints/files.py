"""Checkpoint files: everything that resumes a run, there as a whole or not at all, and verified when read.

    step-00001200.pt     what `torch.save` writes of `TrainState.state_dict()`
    step-00001200.json   its note: size, SHA-256, loss; written last

The note is the commit: a `.pt` without one was never finished and counts for nothing. Files are loaded with
`weights_only=True`, so a checkpoint from elsewhere cannot run code. Why not torch.distributed.checkpoint:
docs/decisions/0006-checkpoints-of-two-files.md.
"""

import io
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, NonNegativeInt, ValidationError

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.store import Store

_DATA = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable, or of another network."""


class Note(Config):
    """What is known of a checkpoint without reading it.

    Attributes:
        step: Steps that the run had made.
        num_bytes: Size of the `.pt` file.
        sha256: Of the `.pt` file.
        loss: Mean over the steps since the checkpoint before, if there were any.
        healthy: Whether nothing looked like collapse; only such a checkpoint can be the best one.
    """

    model_config = ConfigDict(extra="ignore")  # other versions may write more

    step: NonNegativeInt
    num_bytes: NonNegativeInt
    sha256: str
    loss: float | None = None
    healthy: bool = True


def write(store: Store, saved: dict[str, Any], loss: float | None = None, healthy: bool = True) -> Note:
    """Write the state `saved`: first the data, then the note. Killed in between, it leaves no checkpoint.

    Raises:
        CheckpointError: there is no room for it.
        StoreError: the store does not take it.
    """
    name = _name(saved["step"])
    try:
        with store.scratch_folder() as folder:
            note = _write_data(folder / name, saved, loss, healthy)
            store.delete(_note_of(name))  # an older note must never stand beside newer data
            store.put(name, folder / name)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(f"cannot write checkpoint {store.url}/{name}: {str(error).splitlines()[0]}") from None
    store.put(_note_of(name), note.model_dump_json(indent=1).encode())
    return note


def _write_data(path: Path, saved: dict[str, Any], loss: float | None, healthy: bool) -> Note:
    torch.save(saved, path)
    return Note(
        step=saved["step"],
        num_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        loss=loss,
        healthy=healthy,
    )


def read(store: Store, name: str) -> dict[str, Any]:
    """The state in `step-NNNNNNNN.pt`, on the CPU.

    Raises:
        CheckpointError: it was not finished, or is not what was written.
        StoreError: the store does not deliver it.
    """
    where = f"checkpoint {store.url}/{name}"
    note = read_note(store, name)
    data = store.read(name)
    if len(data) != note.num_bytes or sha256_bytes(data) != note.sha256:
        raise CheckpointError(f"{where} cannot be read: it is not what its note describes ({len(data)} bytes)")
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{where} cannot be read: {str(error).splitlines()[0]}") from None
    return saved


def read_note(store: Store, name: str) -> Note:
    """The note of `step-NNNNNNNN.pt`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    note = _note_of(name)
    if not store.exists(note):
        raise CheckpointError(f"checkpoint {store.url}/{name} cannot be read: there is no {note} beside it")
    try:
        return Note.model_validate_json(store.read(note))
    except ValidationError:
        raise CheckpointError(f"checkpoint {store.url}/{name} cannot be read: {note} is damaged") from None


def is_name(name: str) -> bool:
    """Whether this is what a checkpoint is called: `step-NNNNNNNN.pt`."""
    return bool(_DATA.fullmatch(name))


def names(store: Store) -> list[str]:
    """The finished checkpoints in `store`, `step-NNNNNNNN.pt`, oldest first."""
    found = set(store.list("step-"))
    return sorted(name for name in found if is_name(name) and _note_of(name) in found)


def newest(store: Store, say: Callable[[str], None]) -> tuple[str, dict[str, Any]] | None:
    """Name and state of the newest checkpoint that is whole, or None where there is no checkpoint.

    A damaged one is passed over, which `say` is told.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    found = names(store)
    for name in reversed(found):
        try:
            return name, read(store, name)
        except CheckpointError as error:
            say(f"{error}; falling back to the checkpoint before it")
    if found:
        raise CheckpointError(f"all {len(found)} checkpoints in {store.url} are damaged; remove them to start anew")
    return None


def delete(store: Store, step: int) -> None:
    """Remove the checkpoint of `step`, the note first."""
    name = _name(step)
    store.delete(_note_of(name))
    store.delete(name)


def remove_partials(store: Store) -> None:
    """Remove what a writer that was killed has left in a local folder; object stores keep nothing of that kind."""
    folder = store.local_path("")
    for path in folder.glob(".*.part") if folder else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _name(step: int) -> str:
    return f"step-{step:08d}.pt"


def _note_of(name: str) -> str:
    return name.removesuffix(".pt") + ".json"
