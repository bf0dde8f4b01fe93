"""A checkpoint from anybody runs no code, chooses no import, no download and no file, and has what it claims."""

import argparse
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from esvit.checkpoints import files, source
from esvit.checkpoints.export import export
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.official import OfficialCheckpointError, load_official
from esvit.evaluation import load_backbone
from esvit.models import BackboneConfig, build_backbone
from pipeline.errors import UserError
from pipeline.format.checksum import sha256_bytes
from pipeline.store import Store


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.target),)


def of(backbone: dict[str, Any], tensors: str = "swin_nano") -> dict[str, Any]:
    """A checkpoint with this stored config, and the tensors of another network."""
    state = build_backbone(BackboneConfig(name=tensors), drop_path=False).state_dict()
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return {"step": 3, "config": {"model": {"backbone": backbone}}, "teacher": teacher}


GOOD = of({"name": "swin_nano"})


def put(folder: Path, content: bytes) -> str:
    """A finished checkpoint of these bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "step-00000003.pt").write_bytes(content)
    note = files.Note(step=3, num_bytes=len(content), sha256=sha256_bytes(content))
    (folder / "step-00000003.json").write_text(note.model_dump_json())
    return str(folder / "step-00000003.pt")


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_malicious_pickle_runs_no_code(in_zip: bool, tmp_path: Path) -> None:
    content = saved({**GOOD, "x": Evil(tmp_path / "ran")}, _use_new_zipfile_serialization=in_zip)
    url = put(tmp_path / "run", content)
    with pytest.raises(CheckpointError, match=r"it wants to run posix\.mkdir, but only tensors and plain values"):
        source.load(url)
    with pytest.raises(CheckpointError, match="are damaged"):
        source.load(str(tmp_path / "run"))
    for raw in (content, pickle.dumps(Evil(tmp_path / "ran"))):
        (tmp_path / "official.pth").write_bytes(raw)
        with pytest.raises(OfficialCheckpointError, match=r"official\.pth is not a checkpoint"):
            load_official(tmp_path / "official.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"step": "[bold]x[/nope]"}, "its 'step' is no number"),
        ({"step": True}, "its 'step' is no number"),
        ({"config": [1]}, "its 'config' is no mapping"),
        ({"teacher": [1]}, "its 'teacher' is no mapping"),
        ({"teacher": {"backbone.x": 3}}, "its 'teacher' holds other things than tensors"),
        ({"teacher": {3: torch.ones(1)}}, "its 'teacher' holds other things than tensors"),
        ({"optimizer": 1}, "its 'optimizer' is no mapping"),
    ],
)
def test_sections_of_another_kind_are_named(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=fault):
        source.load(put(tmp_path, saved({**GOOD, **changes})))


@pytest.mark.parametrize("content", [[1], torch.ones(2), 3])
def test_what_is_no_dictionary_is_no_checkpoint(content: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: it holds a"):
        source.load(put(tmp_path, saved(content)))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({**GOOD, "config": {}}, "this release does not know its 'model'"),
        ({**GOOD, "teacher": {}}, "the checkpoint's teacher does not fit the network of its config: 61 tensors"),
        ({**GOOD, "teacher": {n: t[:1] for n, t in GOOD["teacher"].items()}}, "does not fit the network of its config"),
        (of({"name": "swin_nano", "embed_dim": 320_000}), "does not fit the network of its config"),
        (of({"name": "swin_nano", "depths": [10**9, 2]}), "more blocks than its teacher has tensors"),
        (of({"name": "os:system"}), "the checkpoint names os:system, which is not part of esvit"),
        (of({"name": "timm/hf-hub:somebody/model"}), "this release does not know its 'model.backbone"),
        (of({"name": "timm/local-dir:/tmp"}), "this release does not know its 'model.backbone"),
    ],
)
def test_a_stored_config_that_does_not_fit_is_refused(found: Any, sentence: str, tmp_path: Path) -> None:
    loaded = source.load(put(tmp_path, saved(found)))
    for use in (load_backbone, lambda loaded, network: export(loaded, network, Store(tmp_path / "out"))):
        with pytest.raises(UserError, match=sentence):
            use(loaded, "teacher")
    assert not (tmp_path / "out").exists()


def test_a_stored_config_chooses_no_file_and_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    original = timm.create_model

    def create(name: str, **options: Any) -> Any:
        asked.append(options)
        return original(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    options = {"pretrained": True, "checkpoint_path": "/etc/passwd", "cache_dir": "/x", "pretrained_cfg": {"file": "x"}}
    found = source.load(put(tmp_path, saved(of({"name": "timm/resnet10t", "options": options}, "timm/resnet10t"))))
    asked.clear()
    assert load_backbone(found, "teacher").width == 512
    assert asked and not any(options.keys() & given.keys() for given in asked)


def test_a_compressed_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    plain = io.BytesIO(saved({**GOOD, "x": torch.zeros(2**20)}))
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert len(packed.getvalue()) < 2**20
    (tmp_path / "official.pth").write_bytes(packed.getvalue())
    with pytest.raises(CheckpointError, match="and claims to hold"):
        source.load(put(tmp_path, packed.getvalue()))
    with pytest.raises(OfficialCheckpointError, match="and claims to hold"):
        load_official(tmp_path / "official.pth")


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_damaged_file_is_one_sentence(in_zip: bool, tmp_path: Path) -> None:
    content = saved(
        {"teacher": {"a": torch.ones(3, 4)}, "args": argparse.Namespace(arch="x")},
        _use_new_zipfile_serialization=in_zip,
    )
    rng, path = random.Random(0), tmp_path / "official.pth"
    for number in range(200):
        damaged = bytearray(content[: rng.randrange(len(content))] if number % 3 == 0 else content)
        for _ in range(rng.randrange(1, 6) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(OfficialCheckpointError, match=r"official\.pth"):
            load_official(path)
