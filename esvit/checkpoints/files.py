"""Checkpoint files: the whole state of a run, written atomically and verified when read.

    step-00001200.pt     what `torch.save` writes of `TrainState.state_dict()`
    step-00001200.json   its note: size, SHA-256, loss; written last

The note commits the checkpoint: a `.pt` file without a note is unfinished and ignored. A checkpoint from elsewhere
cannot run code (`unpickled.py`). docs/decisions/0006-checkpoints-of-two-files.md says why this is not
torch.distributed.checkpoint.
"""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, NonNegativeInt, ValidationError

from esvit.checkpoints.unpickled import DamagedError, unpickled
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.store import Store

_SECTIONS = ("student", "teacher", "loss", "optimizer", "scaler", "loader", "config")
_DATA = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable, or of another network."""


class Note(Config):
    """Facts about a checkpoint, known without reading its `.pt` file.

    Attributes:
        step: Steps made before the checkpoint.
        num_bytes: Size of the `.pt` file.
        sha256: SHA-256 of the `.pt` file.
        loss: Mean loss since the checkpoint before; None if no step was made since.
        healthy: Whether there was no sign of collapse; only a healthy checkpoint can be the best one.
    """

    model_config = ConfigDict(extra="ignore")  # other versions may write more

    step: NonNegativeInt
    num_bytes: NonNegativeInt
    sha256: str
    loss: float | None = None
    healthy: bool = True


def write(store: Store, saved: dict[str, Any], loss: float | None = None, healthy: bool = True) -> Note:
    """Write the state `saved`: first the data, then the note. A kill in between leaves no checkpoint.

    Raises:
        CheckpointError: the disk is full.
        StoreError: the store refuses a file.
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
        CheckpointError: the checkpoint has no note, or the file does not match the note.
        StoreError: the store does not deliver a file.
    """
    where = f"checkpoint {store.url}/{name}"
    note = read_note(store, name)
    data = store.read(name)
    if len(data) != note.num_bytes or sha256_bytes(data) != note.sha256:
        raise CheckpointError(f"{where} cannot be read: its {len(data)} bytes do not match its note")
    try:
        saved = unpickled(io.BytesIO(data))
    except DamagedError as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from None
    if fault := _fault(saved):
        raise CheckpointError(f"{where} cannot be read: {fault}")
    return saved


def _fault(saved: dict[str, Any]) -> str | None:
    """What is of another kind than `write` wrote it; missing sections are no fault here."""
    if type(saved.get("step")) is not int:
        return "its 'step' is no number"
    for section in _SECTIONS:
        if not isinstance(saved.get(section, {}), dict):
            return f"its '{section}' is no mapping"
    for network in ("student", "teacher"):
        for name, tensor in saved.get(network, {}).items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                return f"its '{network}' holds other things than tensors with names"
    return None


def read_note(store: Store, name: str) -> Note:
    """The note of `step-NNNNNNNN.pt`.

    Raises:
        CheckpointError: the note is missing or damaged.
    """
    note = _note_of(name)
    if not store.exists(note):
        raise CheckpointError(f"checkpoint {store.url}/{name} cannot be read: there is no {note} beside it")
    try:
        return Note.model_validate_json(store.read(note))
    except ValidationError:
        raise CheckpointError(f"checkpoint {store.url}/{name} cannot be read: {note} is damaged") from None


def is_name(name: str) -> bool:
    """Whether `name` is the name of a checkpoint: `step-NNNNNNNN.pt`."""
    return bool(_DATA.fullmatch(name))


def names(store: Store) -> list[str]:
    """The finished checkpoints in `store`, `step-NNNNNNNN.pt`, oldest first."""
    found = set(store.list("step-"))
    return sorted(name for name in found if is_name(name) and _note_of(name) in found)


def newest(store: Store, say: Callable[[str], None]) -> tuple[str, dict[str, Any]] | None:
    """Name and state of the newest undamaged checkpoint; None where there is no checkpoint.

    Damaged checkpoints are skipped; `say` gets a line for each.

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
    """Remove the partial files of a killed writer from a local folder; object stores keep no partial files."""
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
