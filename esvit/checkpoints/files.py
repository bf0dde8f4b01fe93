"""Checkpoint files: the whole state of a run, written atomically and verified when read.

    step-00001200.pt     what `torch.save` writes of `TrainState.state_dict()`
    step-00001200.json   its note: size, SHA-256, loss; written after the data
    latest.json          the step of the newest checkpoint; written last

The note commits the checkpoint: a `.pt` file without a note is unfinished, unless `latest.json` knows it as finished.
`latest.json` also finds a checkpoint that a listing does not show yet. A file that does not match is read again: a
store may deliver a wrong body once.

A checkpoint from elsewhere cannot run code (`unpickled.py`). docs/decisions/0006-checkpoints-of-two-files.md says why
this is not torch.distributed.checkpoint.
"""

import contextlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, NonNegativeInt

from esvit.checkpoints.unpickled import DamagedError, unpickled
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes, sha256_file
from pipeline.store import MissingObjectError, Store

LATEST = "latest.json"
_SECTIONS = ("student", "teacher", "loss", "optimizer", "scaler", "loader", "config")
_DATA = re.compile(r"step-(\d{8})\.pt")
_PAUSES_S = (0.1, 0.4)  # before a file that does not match is read again
C = TypeVar("C", bound=Config)
R = TypeVar("R")


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


class Latest(Config):
    """The content of `latest.json`.

    Attributes:
        step: Step of the checkpoint that was finished last.
    """

    model_config = ConfigDict(extra="ignore")  # other versions may write more

    step: NonNegativeInt


def write(
    store: Store,
    saved: dict[str, Any],
    loss: float | None = None,
    healthy: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Note:
    """Write the state `saved`: first the data, then the note. A kill in between leaves no checkpoint.

    Args:
        check: Called before each part; raises where another run has taken the place.

    Raises:
        CheckpointError: the disk is full.
        StoreError: the store refuses a file.
    """
    name = name_of(saved["step"])
    try:
        with store.scratch_folder() as folder:
            note = _write_data(folder / name, saved, loss, healthy)
            check()
            store.delete(note_of(name))  # an older note must never stand beside newer data
            store.put(name, folder / name)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(f"cannot write checkpoint {store.url}/{name}: {str(error).splitlines()[0]}") from None
    check()
    store.put(note_of(name), _sealed(note))
    put_latest(store, note.step)
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
        CheckpointError: the checkpoint has no note or no data, or the file does not match the note.
        StoreError: the store does not deliver a file.
    """
    return _patiently(lambda: _read(store, name))


def _read(store: Store, name: str) -> dict[str, Any]:
    where = f"checkpoint {store.url}/{name}"
    note = _read_note(store, name)
    try:
        data = store.read(name)
    except MissingObjectError:
        raise CheckpointError(f"{where} cannot be read: its note is there, but not its data") from None
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
    return _patiently(lambda: _read_note(store, name))


def _read_note(store: Store, name: str) -> Note:
    where = f"checkpoint {store.url}/{name} cannot be read"
    try:
        note = _opened(Note, store.read(note_of(name)))
    except MissingObjectError:
        raise CheckpointError(f"{where}: there is no {note_of(name)} beside it") from None
    except ValueError:
        raise CheckpointError(f"{where}: {note_of(name)} is damaged") from None
    if name_of(note.step) != name:
        raise CheckpointError(f"{where}: {note_of(name)} is the note of step {note.step}")
    return note


def latest_step(store: Store) -> int | None:
    """The step in `latest.json`; None where there is none, as in a new folder, or it stays unreadable."""

    def read() -> int | None:
        try:
            return _opened(Latest, store.read(LATEST)).step
        except MissingObjectError:
            return None
        except ValueError:
            raise CheckpointError(f"{store.url}/{LATEST} is damaged") from None

    with contextlib.suppress(CheckpointError):
        return _patiently(read)
    return None


def put_latest(store: Store, step: int) -> None:
    """Write `latest.json`: the checkpoint of `step` is the newest."""
    store.put(LATEST, _sealed(Latest(step=step)))


def _sealed(facts: Config) -> bytes:
    """The facts as JSON, with a checksum of their own: a wrong digit would be JSON too."""
    content = facts.model_dump(mode="json")
    return json.dumps({**content, "checksum": _checksum(type(facts), content)}, indent=1).encode()


def _opened(schema: type[C], sealed: bytes) -> C:
    """What `_sealed` made; `ValueError` if it is damaged. Older releases wrote no checksum."""
    try:
        content = json.loads(sealed)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(content, dict) and content.pop("checksum", None) not in (None, _checksum(schema, content)):
        raise ValueError("the checksum does not match")
    return schema.model_validate(content)


def _checksum(schema: type[Config], content: dict[str, Any]) -> str:
    """Covers the fields of `schema`: other versions may write more."""
    return sha256_bytes(json.dumps([content.get(name) for name in schema.model_fields]).encode())[:16]


def _patiently(read: Callable[[], R]) -> R:
    """What `read` returns; tried again, with pauses, while it raises `CheckpointError`."""
    for pause_s in _PAUSES_S:
        with contextlib.suppress(CheckpointError):
            return read()
        time.sleep(pause_s)
    return read()


def is_name(name: str) -> bool:
    """Whether `name` is the name of a checkpoint: `step-NNNNNNNN.pt`."""
    return bool(_DATA.fullmatch(name))


def names(store: Store) -> list[str]:
    """The finished checkpoints in `store`, `step-NNNNNNNN.pt`, oldest first."""
    found = set(store.list("step-"))
    finished = {name for name in found if is_name(name) and note_of(name) in found}
    latest = latest_step(store)
    if latest is not None and store.exists(note_of(name_of(latest))):  # the listing may be behind
        finished.add(name_of(latest))
    return sorted(finished)


def delete(store: Store, step: int) -> None:
    """Remove the checkpoint of `step`, the note first."""
    name = name_of(step)
    store.delete(note_of(name))
    store.delete(name)


def remove_partials(store: Store) -> None:
    """Remove the partial files of a killed writer from a local folder; object stores keep no partial files."""
    folder = store.local_path("")
    for path in folder.glob(".*.part") if folder else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def name_of(step: int) -> str:
    """The `.pt` file of the checkpoint of `step`."""
    return f"step-{step:08d}.pt"


def note_of(name: str) -> str:
    """The note of the `.pt` file `name`."""
    return name.removesuffix(".pt") + ".json"
