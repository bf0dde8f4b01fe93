"""Checkpoints on disk: whole or absent, pruned, and refused with a sentence where they do not fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from esvit import checkpoint
from esvit.checkpoint import CheckpointError, TrainState
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from pipeline.store import Store

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
    return TrainState(networks, loss, optimizer, Position(step), {"seed": 0}, step)  # type: ignore[arg-type]


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved = _state(0.5, step=7)
    saved.networks.student(list(torch.randn(1, 2, 1, 3, 32, 32))).view_logits[0].sum().backward()
    saved.optimizer.step()
    checkpoint.save(saved, Store(str(tmp_path)), keep_last=3)
    restored = _state(0.5)
    restored.resume(checkpoint.load(str(tmp_path)))
    assert restored.step == 7 and restored.loader.state_dict() == {"position": 7}
    for part in ("student", "teacher", "loss"):
        theirs, ours = saved.state_dict()[part], restored.state_dict()[part]
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs | ours)
    moments = restored.state_dict()["optimizer"]
    assert all(torch.equal(m["exp_avg"], moments[n]["exp_avg"]) for n, m in saved.state_dict()["optimizer"].items())


def test_the_newest_and_the_first_stay(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for step in (0, 10, 20, 30, 40):
        checkpoint.save(_state(step=step), store, keep_last=2)
    assert checkpoint.names(store) == ["step-00000000.pt", "step-00000030.pt", "step-00000040.pt"]
    assert checkpoint.load(str(tmp_path))["step"] == 40
    assert checkpoint.load(f"{tmp_path}/step-00000030.pt")["step"] == 30


def test_regions_start_fresh_on_a_view_only_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(_state(), Store(str(tmp_path)), keep_last=1)
    grown = _state(0.5)
    fresh = grown.start_from(checkpoint.load(str(tmp_path)))
    assert {name.split(".")[1] for name in fresh} == {"region_head", "region_center"}
    assert grown.step == 0


def test_another_network_is_refused_by_the_name_of_its_parameter(tmp_path: Path) -> None:
    checkpoint.save(_state(), Store(str(tmp_path)), keep_last=1)
    other = _state(head=HEAD.replace(num_prototypes=16))
    with pytest.raises(CheckpointError, match=r"student does not fit this network: size mismatch .*last_layer"):
        other.resume(checkpoint.load(str(tmp_path)))
    with pytest.raises(CheckpointError, match="region_head"):
        _state(0.5).resume(checkpoint.load(str(tmp_path)))


def test_no_checkpoint_and_a_cut_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(str(tmp_path))
    name = checkpoint.save(_state(), Store(str(tmp_path)), keep_last=1)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        checkpoint.load(str(tmp_path))
