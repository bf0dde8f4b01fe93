"""Published checkpoints: files of their exact structure, made here, become networks that compute the same."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from esvit.checkpoints import source
from esvit.checkpoints.official import OfficialCheckpointError, load_official
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BACKBONES, BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from esvit.optim import OptimConfig, build_optimizer, load_optimizer_state_by_name

K = 12
HEAD = HeadConfig(num_prototypes=K, hidden=16, bottleneck=8)


def their_name(name: str) -> str:
    """As the authors' code calls a tensor of ours; written independently of the importer."""
    first, rest = name.split(".", 1)
    if first != "backbone":
        return {"view_head": "head.", "region_head": "head_dense."}[first] + rest
    parts = rest.split(".")
    if len(parts) > 2 and parts[2] == "downsample":
        parts[1] = str(int(parts[1]) - 1)
    return ".".join(parts)


def their_state(network: Network) -> dict[str, Tensor]:
    """In their order: blocks before the downsampling of a stage, and with their derived buffers."""
    ours = {their_name(name): tensor for name, tensor in network.state_dict().items()}
    stages = [n for n in ours if n.startswith("layers.")]
    rest = [n for n in ours if n not in stages]
    order = [n for n in rest if n.startswith("patch_embed")]
    order += sorted(stages, key=lambda n: (int(n.split(".")[1]), "downsample" in n))
    order += [n for n in rest if n.startswith("norm.")] + [n for n in rest if n.startswith("head")]
    state = {}
    for name in order:
        state[name] = ours[name]
        if name.endswith("relative_position_bias_table"):
            state[name.replace("bias_table", "index")] = torch.zeros(3, 3, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    return state


def write_official(path: Path, model: ModelConfig, *, with_regions: bool = True) -> tuple[dict[str, Any], Network]:
    """A checkpoint as theirs, and the teacher it was made of."""
    torch.manual_seed(0)
    student, teacher = (Network(model, drop_path=False, with_regions=with_regions) for _ in range(2))
    student_state = their_state(student)
    named = {their_name(name): p for name, p in student.named_parameters() if p.requires_grad}
    trained = [name for name in student_state if name in named]
    exempt = [n for n in trained if n.endswith(".bias") or named[n].ndim == 1]
    order = [n for n in trained if n not in exempt] + exempt
    moments = {
        i: {"step": 7, "exp_avg": torch.full_like(named[n], i), "exp_avg_sq": torch.ones_like(named[n])}
        for i, n in enumerate(order)
    }
    split = len(order) - len(exempt)
    groups = [{"params": list(range(split))}, {"params": list(range(split, len(order)))}]
    centers = {"center": torch.full((1, K), 0.5)} | ({"center_grid": torch.full((1, K), 0.25)} if with_regions else {})
    saved = {
        "student": {f"module.{name}": tensor for name, tensor in student_state.items()},
        "teacher": their_state(teacher),
        "optimizer": {"state": moments, "param_groups": groups},
        "epoch": 300,
        "args": argparse.Namespace(arch="swin_tiny", norm_last_layer=model.head.norm_last_layer),
        "dino_loss": centers,
    }
    torch.save(saved, path)
    return saved, teacher


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Network]:
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    return path, *write_official(path, ModelConfig(backbone=BackboneConfig(name="swin_tiny"), head=HEAD))


def test_the_teacher_computes_the_same(published: tuple[Path, dict[str, Any], Network]) -> None:
    path, _, teacher = published
    saved = source.load(str(path))
    model = ModelConfig.model_validate(saved["config"]["model"])
    assert (model.backbone.name, model.backbone.window_size, model.head) == ("swin_tiny", 7, HEAD)
    network = Network(model, drop_path=False, with_regions=True)
    network.load_state_dict(saved["teacher"])
    views = [torch.randn(1, 1, 3, 64, 64)]
    with torch.no_grad():
        found, expected = network(views), teacher(views)
    assert torch.equal(found.regions[0], expected.regions[0])
    assert torch.equal(found.view_logits[0], expected.view_logits[0])
    assert torch.equal(found.region_logits[0], expected.region_logits[0])


def test_training_can_continue(published: tuple[Path, dict[str, Any], Network]) -> None:
    saved = load_official(published[0])
    network = Network(ModelConfig.model_validate(saved["config"]["model"]), drop_path=True, with_regions=True)
    network.load_state_dict(saved["student"])
    optimizer = build_optimizer(network, OptimConfig())
    assert load_optimizer_state_by_name(optimizer, saved["optimizer"]) == []  # nothing starts fresh
    names = list(saved["optimizer"])
    assert names[-1].endswith("region_head.mlp.4.bias") and not names[0].endswith(".bias")
    assert all(float(state["step"]) == 7 for state in saved["optimizer"].values())
    loss = EsvitLoss(LossConfig(), K)
    loss.load_state_dict(saved["loss"])
    assert loss.region_center is not None
    assert float(loss.view_center.center[0]) == 0.5 and float(loss.region_center.center[0]) == 0.25


@pytest.mark.parametrize("name", ["swin_small", "swin_base"])
@pytest.mark.parametrize("window", [7, 14])
def test_every_published_shape_is_recognised(
    name: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", lambda *_: None)  # half a gigabyte that only its shapes matter of
    with torch.device("meta"):
        saved, _ = write_official(
            tmp_path / "x.pth", ModelConfig(backbone=BackboneConfig(name=name, window_size=window), head=HEAD)
        )
    monkeypatch.setattr(torch, "load", lambda *_, **__: saved)
    model = ModelConfig.model_validate(load_official("x.pth")["config"]["model"])
    assert (model.backbone.name, model.backbone.window_size) == (name, window)
    architecture: Any = model.backbone.architecture
    assert architecture.depths == BACKBONES[name].depths


def test_view_only_and_batch_norm(tmp_path: Path) -> None:
    head = HEAD.replace(batch_norm=True, norm_last_layer=True)
    path = tmp_path / "x.pth"
    write_official(path, ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=head), with_regions=False)
    saved = load_official(path)
    assert ModelConfig.model_validate(saved["config"]["model"]).head == head
    assert not any("region" in name for name in [*saved["student"], *saved["loss"]])
    assert not any("weight_g" in name for name in saved["optimizer"])


def drop(saved: dict[str, Any]) -> None:
    del saved["teacher"]["norm.weight"]


def add(saved: dict[str, Any]) -> None:
    saved["student"]["module.layers.0.extra"] = torch.zeros(1)


def reshape(saved: dict[str, Any]) -> None:
    saved["teacher"]["norm.weight"] = torch.zeros(3)


def confuse(saved: dict[str, Any]) -> None:
    saved["optimizer"]["param_groups"][0]["params"].append(99)


def misshape(saved: dict[str, Any]) -> None:
    saved["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "teacher does not fit swin_nano: it lacks backbone.norm.weight"),
        (add, "student does not fit swin_nano: it has backbone.layers.0.extra, which the network lacks"),
        (reshape, r"teacher does not fit swin_nano: backbone.norm.weight is of shape \[3\], not \[64\]"),
        (confuse, "the checkpoint's optimizer and student have different numbers of parameters"),
        (misshape, r"the checkpoint's optimizer state of patch_embed.proj.weight has another shape"),
    ],
)
def test_a_mismatch_is_an_error(damage: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    saved, _ = write_official(path, ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=HEAD))
    damage(saved)
    torch.save(saved, path)
    with pytest.raises(OfficialCheckpointError, match=message):
        load_official(path)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(OfficialCheckpointError, match=r"cannot read .*: No such file"):
        load_official(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(OfficialCheckpointError, match="is not a checkpoint"):
        load_official(path)
