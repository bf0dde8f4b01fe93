"""Checkpoints on disk: whole or absent, pruned, and refused with a sentence where they do not fit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from esvit.checkpoints import files, source
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.keeping import CheckpointConfig, Checkpointer
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from esvit.state import TrainState
from pipeline.store import Store, StoreError

HEAD = HeadConfig(num_prototypes=8, hidden=16, bottleneck=4)


@dataclass
class Position:
    """The loader's part of a state."""

    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["position"]


def _state(region_weight: float = 0.0, head: HeadConfig = HEAD, step: int = 0) -> TrainState:
    model = ModelConfig(backbone=BackboneConfig(name="swin_nano", embed_dim=8, num_heads=(1, 2)), head=head)
    networks = StudentTeacher(model, with_regions=region_weight > 0)
    loss = EsvitLoss(LossConfig(region_weight=region_weight), head.num_prototypes)
    optimizer = build_optimizer(networks.student, OptimConfig())
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**10)
    return TrainState(networks, loss, optimizer, scaler, Position(step), {"seed": 0}, step)  # type: ignore[arg-type]


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved = _state(0.5, step=7)
    saved.networks.student(list(torch.randn(1, 2, 1, 3, 32, 32))).view_logits[0].sum().backward()
    saved.optimizer.step()
    loss: Any = saved.loss
    loss.view_center.center.copy_(torch.randn(8))
    saved.scaler.load_state_dict({**saved.scaler.state_dict(), "scale": 2.0**5, "_growth_tracker": 7})
    files.write(Store(str(tmp_path)), saved.state_dict())
    restored = _state(0.5)
    restored.resume(source.load(str(tmp_path)))
    assert restored.scaler.state_dict() == saved.scaler.state_dict() != _state().scaler.state_dict()
    assert restored.step == 7 and restored.loader is not None and restored.loader.state_dict() == {"position": 7}
    for part in ("student", "teacher", "loss"):
        theirs, ours = saved.state_dict()[part], restored.state_dict()[part]
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs | ours)
    moments = restored.state_dict()["optimizer"]
    assert all(torch.equal(m["exp_avg"], moments[n]["exp_avg"]) for n, m in saved.state_dict()["optimizer"].items())


def _steps(folder: Path) -> list[int]:
    return [int(name[5:13]) for name in files.names(Store(folder))]


def _run(folder: Path, losses: dict[int, float | None], config: CheckpointConfig) -> None:
    state = _state()
    with Checkpointer(config, Store(folder), steps_per_epoch=10, say=lambda _: None) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save({**state.state_dict(), "step": step}, loss)
        checkpoints.wait()


def test_the_newest_and_the_first_stay(tmp_path: Path) -> None:
    _run(tmp_path, dict.fromkeys((0, 10, 20, 30, 40)), CheckpointConfig(keep_last=2))
    assert _steps(tmp_path) == [0, 30, 40]
    assert len(list(tmp_path.glob("step-*"))) == 6
    assert source.load(str(tmp_path))["step"] == 40
    assert source.load(f"{tmp_path}/step-00000030.pt")["step"] == 30


def test_the_best_and_the_milestones_stay(tmp_path: Path) -> None:
    losses = {0: None, 10: 3.0, 20: 1.0, 30: 2.0, 40: 2.0, 50: 2.0, 60: 2.0}
    _run(tmp_path, losses, CheckpointConfig(keep_last=1, keep_every_epochs=3))
    assert _steps(tmp_path) == [0, 20, 30, 60]
    with Checkpointer(CheckpointConfig(keep_last=1), Store(tmp_path), 10, print) as checkpoints:
        checkpoints.continue_after(60)  # what was best before a restart is best after it
        checkpoints.save({**_state().state_dict(), "step": 70}, 0.5, healthy=False)
    assert _steps(tmp_path) == [0, 20, 70]


def test_what_comes_after_the_resumed_step_is_not_this_run_s(tmp_path: Path) -> None:
    _run(tmp_path, {0: None, 10: 3.0, 20: 1.0}, CheckpointConfig())
    with Checkpointer(CheckpointConfig(keep_last=1), Store(tmp_path), 10, print) as checkpoints:
        checkpoints.continue_after(10)
        checkpoints.save({**_state().state_dict(), "step": 15}, 2.0)
    assert _steps(tmp_path) == [0, 15, 20]  # 20 is written again when the run comes by; it is neither newest nor best


def test_a_checkpoint_is_due_at_its_steps_at_milestones_and_at_the_end(tmp_path: Path) -> None:
    config = CheckpointConfig(every_steps=4, keep_every_epochs=1)
    checkpoints = Checkpointer(config, Store(tmp_path), steps_per_epoch=10, say=print)
    assert [step for step in range(1, 16) if checkpoints.due(step, num_steps=15)] == [4, 8, 10, 12, 15]


def test_saving_copies_the_state_before_it_returns(tmp_path: Path) -> None:
    state = _state(step=5)
    expected = {name: tensor.clone() for name, tensor in state.networks.student.state_dict().items()}
    with Checkpointer(CheckpointConfig(), Store(tmp_path), 10, print) as checkpoints:
        checkpoints.save(state.state_dict())
        for parameter in state.networks.student.parameters():
            parameter.data.zero_()
    student = source.load(str(tmp_path))["student"]
    assert all(torch.equal(student[name], tensor) for name, tensor in expected.items())


def test_a_store_that_refuses_stops_the_run_at_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Checkpointer(CheckpointConfig(), Store(tmp_path / "file"), 10, print) as checkpoints:
        checkpoints.save(_state().state_dict())
        with pytest.raises(StoreError, match=r"cannot write .*/file: .* is not a folder"):
            checkpoints.save(_state(step=1).state_dict())
        with pytest.raises(StoreError):
            checkpoints.wait()


def test_a_note_of_another_version_may_hold_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files.write(store, {"step": 20, "weight": torch.ones(1)}, loss=2.0)
    note = tmp_path / "step-00000020.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "config_sha256": "00"}))
    assert files.read(store, "step-00000020.pt")["step"] == 20
    assert files.read_note(store, "step-00000020.pt").loss == 2.0


@pytest.mark.parametrize("damage", ["cut", "flipped", "no note", "bad note"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    _run(tmp_path, {0: None, 10: 1.0, 20: 1.0}, CheckpointConfig())
    data, note = tmp_path / "step-00000020.pt", tmp_path / "step-00000020.json"
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[:1000])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "no note":
        note.unlink()
    else:
        note.write_text("{")
    said: list[str] = []
    assert source.load(str(tmp_path), said.append)["step"] == 10
    assert len(said) == 1 and "step-00000020.pt cannot be read" in said[0] and "falling back" in said[0]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".scratch-x.part").mkdir()
    (tmp_path / ".scratch-x.part/step-00000010.pt").write_text("half")
    (tmp_path / ".y.part").write_text("half")
    Checkpointer(CheckpointConfig(), Store(tmp_path), 10, print).continue_after(0)
    assert list(tmp_path.iterdir()) == []


def test_changed_settings_are_named_when_a_run_resumes() -> None:
    state = _state()
    state.config |= {"data": {"num_threads": 1}, "optim": {"eps": 1e-8, "clip_norm": 3.0}}
    then = {"seed": 1, "output": "elsewhere", "data": {"num_threads": 9}, "optim": {"eps": 1e-8, "clip_norm": 1.0}}
    assert state.resume({**state.state_dict(), "config": then}) == ["optim.clip_norm", "seed"]


def test_regions_start_fresh_on_a_view_only_checkpoint(tmp_path: Path) -> None:
    files.write(Store(str(tmp_path)), _state().state_dict())
    grown = _state(0.5)
    fresh = grown.start_from(source.load(str(tmp_path)))
    assert {name.split(".")[1] for name in fresh} == {"region_head", "region_center"}
    assert grown.step == 0


def test_parameters_that_a_new_run_has_no_place_for_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"student has 'region_head\..*', which this network lacks"):
        _state().start_from(_state(0.5).state_dict())


def test_another_network_is_refused_by_the_name_of_its_parameter(tmp_path: Path) -> None:
    files.write(Store(str(tmp_path)), _state().state_dict())
    other = _state(head=HEAD.replace(num_prototypes=16))
    with pytest.raises(CheckpointError, match=r"student does not fit this network: size mismatch .*last_layer"):
        other.resume(source.load(str(tmp_path)))
    with pytest.raises(CheckpointError, match="region_head"):
        _state(0.5).resume(source.load(str(tmp_path)))


def test_no_checkpoint_and_a_cut_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        source.load(str(tmp_path))
    files.write(Store(str(tmp_path)), _state().state_dict())
    path = tmp_path / "step-00000000.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{path.name} cannot be read"):
        source.load(str(path))
    with pytest.raises(CheckpointError, match=r"all 1 checkpoints in .* are damaged"):
        source.load(str(tmp_path))


def test_settings_of_another_release_are_named() -> None:
    model = ModelConfig(backbone=BackboneConfig(name="swin_nano")).model_dump(mode="json")
    assert source.model_config({"config": {"model": model}}).backbone.name == "swin_nano"
    model["backbone"]["magic"] = True
    with pytest.raises(CheckpointError, match=r"does not know its 'model\.backbone\.magic'"):
        source.model_config({"config": {"model": model}})
