"""A checkpoint comes and goes in an order that never leaves half of one; and none runs code."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from esvit.checkpoints import files
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.keeping import CheckpointConfig, Checkpointer
from esvit.checkpoints.official import load_official
from pipeline.errors import UserError
from pipeline.store import Store, StoreError


def state(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "config": {}, "loader": {}, **more}


class KilledError(Exception):
    """What stands for SIGKILL here."""


class DeadlyStore(Store):
    """The process is killed once it has written the object `victim`."""

    victim = ""

    def put(self, name: str, source: bytes | Path) -> None:
        super().put(name, source)
        if name == self.victim:
            raise KilledError


def test_data_that_are_written_again_have_no_note_until_they_are_whole(tmp_path: Path) -> None:
    store = DeadlyStore(tmp_path)
    files.write(store, state(5, tensor=torch.zeros(3)))
    store.victim = "step-00000005.pt"
    with pytest.raises(KilledError):
        files.write(store, state(5, tensor=torch.ones(3)))
    assert files.names(store) == []
    store.victim = ""
    files.write(store, state(5, tensor=torch.ones(3)))
    assert files.read(store, "step-00000005.pt")["tensor"].tolist() == [1, 1, 1]


def test_a_checkpoint_that_goes_loses_its_note_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files.write(store, state(5))
    (tmp_path / "step-00000005.pt").unlink()
    (tmp_path / "step-00000005.pt/folder").mkdir(parents=True)  # which cannot be removed as a file can
    with pytest.raises(StoreError):
        files.delete(store, 5)
    assert files.names(store) == []


def test_old_checkpoints_go_once_the_new_one_is_safe(tmp_path: Path) -> None:
    store = DeadlyStore(tmp_path)
    with Checkpointer(CheckpointConfig(keep_last=1), store, 10, print) as checkpoints:
        checkpoints.save(state(10))
        checkpoints.wait()
        store.victim = "step-00000020.pt"
        checkpoints.save(state(20))
        with pytest.raises(KilledError):
            checkpoints.wait()
    assert files.names(Store(tmp_path)) == ["step-00000010.pt"]


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._folder),)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    store, crater = Store(tmp_path / "checkpoints"), tmp_path / "crater"
    files.write(store, state(5, bomb=Bomb(crater)))
    with pytest.raises(CheckpointError, match=r"step-00000005\.pt cannot be read"):
        files.read(store, "step-00000005.pt")
    assert not crater.exists()


def test_a_published_checkpoint_runs_no_code(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    torch.save({"student": {}, "args": argparse.Namespace(), "bomb": Bomb(crater)}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"checkpoint\.pth is not a checkpoint"):
        load_official(str(tmp_path / "checkpoint.pth"))
    assert not crater.exists()
