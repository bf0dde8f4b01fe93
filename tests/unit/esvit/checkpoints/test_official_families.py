"""Checkpoints of every family that EsViT's authors trained, in their names and shapes, made here in miniature."""

from pathlib import Path
from typing import Any

import pytest
import torch

from esvit.checkpoints.export import export
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.official import OfficialCheckpointError, load_official
from esvit.evaluation import load_backbone
from esvit.models import BACKBONES, BackboneConfig
from esvit.models.student_teacher import ModelConfig, Network, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer, load_optimizer_state_by_name
from esvit.state import TrainState
from pipeline.store import Store
from support.official import NAMES, ROWS, make, their_state, trained, whole

MINIS = list(NAMES)


@pytest.fixture(autouse=True)
def _rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, row in ROWS.items():
        monkeypatch.setitem(BACKBONES, name, row)


def load(saved: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What becomes of it, and what is said."""
    said: list[str] = []
    torch.save(saved, folder / "checkpoint.pth")
    return load_official(folder / "checkpoint.pth", said.append), said


def restored(saved: dict[str, Any], which: str = "teacher") -> Network:
    network = Network(ModelConfig.model_validate(saved["config"]["model"]), drop_path=False, with_regions=True)
    network.load_state_dict(saved[which])
    return network.eval()


@torch.no_grad()
def assert_same(found: Network, expected: Network, side: int = 64) -> None:
    views = [torch.randn(1, 2, 3, side, side)]
    for ours, theirs in zip(found(views).region_logits, expected(views).region_logits, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(found(views).view_logits[0], expected(views).view_logits[0])


@pytest.mark.parametrize("name", MINIS)
def test_the_names_are_those_of_the_authors(name: str) -> None:
    assert set(NAMES[name].split()) <= set(their_state(make(name), name))


@pytest.mark.parametrize("name", MINIS)
def test_a_whole_checkpoint_becomes_the_network_that_it_was(name: str, tmp_path: Path) -> None:
    network = make(name)
    saved, said = load(whole(network, name), tmp_path)
    assert saved["config"]["model"]["backbone"]["name"] == name and saved["epoch"] == 200 and saved["step"] == 0
    for which in ("teacher", "student"):
        assert_same(restored(saved, which), network)
    assert saved["loss"].keys() == {"view_center.center", "region_center.center"}
    (sentence,) = said
    assert "left out fp16_scaler" in sentence
    assert ("relative_position_index" in sentence) == (name == "vil_mini")


@pytest.mark.parametrize("name", MINIS)
def test_moments_follow_their_parameters(name: str, tmp_path: Path) -> None:
    """Each moment is made the tensor itself there, so that it has to be the tensor here."""
    network = make(name)
    saved = whole(network, name)
    for i, key in enumerate(trained(saved["teacher"])):
        saved["optimizer"]["state"][i]["exp_avg"] = saved["teacher"][key]
    found, _ = load(saved, tmp_path)
    named = dict(network.named_parameters())
    assert found["optimizer"].keys() == {n for n, p in named.items() if p.requires_grad}
    for key, state in found["optimizer"].items():
        assert torch.equal(state["exp_avg"], named[key]) and float(state["step"]) == 7
    optimizer = build_optimizer(restored(found, "student"), OptimConfig())
    assert load_optimizer_state_by_name(optimizer, found["optimizer"]) == []


@pytest.mark.parametrize("name", [*MINIS, "swin_mini"])
@pytest.mark.parametrize("kept", ["teacher", "student", "bare", "backbone"])
def test_one_network_alone_is_enough_for_evaluation(name: str, kept: str, tmp_path: Path) -> None:
    network = make(name)
    state = their_state(network, name)
    partial: dict[str, dict[str, Any]] = {
        "teacher": {"teacher": state},
        "student": {"student": {f"module.{n}": t for n, t in state.items()}},
        "bare": state,
        "backbone": {"teacher": {n: t for n, t in state.items() if not n.startswith("head")}},
    }
    saved, said = load(partial[kept], tmp_path)
    which = "student" if kept == "student" else "teacher"
    assert {"student", "teacher", "loss", "optimizer"} & saved.keys() == {which}
    other = "teacher" if which == "student" else "student"
    assert f"has no {other}, no centres, no optimiser state" in said[0] and "not for training" in said[0]
    if kept == "backbone":
        backbone = {n.removeprefix("backbone."): t for n, t in saved[which].items()}
        assert network.backbone.load_state_dict(backbone) is not None
    else:
        assert_same(restored(saved, which), network)


@pytest.mark.parametrize("name", MINIS)
def test_the_order_of_the_tensors_in_the_file_does_not_matter(name: str, tmp_path: Path) -> None:
    network = make(name)
    saved, _ = load({"teacher": dict(sorted(their_state(network, name).items()))}, tmp_path)  # "kv" before "query"
    assert_same(restored(saved), network)


def test_without_an_optimiser_the_rest_is_read(tmp_path: Path) -> None:
    saved = whole(make("deit_mini"), "deit_mini")
    del saved["optimizer"]
    found, said = load(saved, tmp_path)
    assert {"student", "teacher", "loss"} <= found.keys() and "optimizer" not in found
    assert "has no optimiser state: it is enough for evaluation" in said[0]


@pytest.mark.parametrize(
    "optimizer", [None, {}, {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": []}]
)
def test_the_state_of_another_optimiser_is_left_out_and_named(optimizer: Any, tmp_path: Path) -> None:
    network = make("resnet_mini")
    found, said = load({**whole(network, "resnet_mini"), "optimizer": optimizer, "dino_loss": None}, tmp_path)
    assert "optimizer" not in found and "loss" not in found
    assert "has no centres, no optimiser state" in said[0]
    assert "left out optimizer" in said[1] and "dino_loss" in said[1]
    assert_same(restored(found), network)


def test_a_classifier_is_left_out_and_named(tmp_path: Path) -> None:
    state = {n: t for n, t in their_state(make("deit_mini"), "deit_mini").items() if not n.startswith("head")}
    saved, said = load({"model": {**state, "head.weight": torch.zeros(5, 24), "head.bias": torch.zeros(5)}}, tmp_path)
    assert not any("head" in name for name in saved["teacher"])
    assert any("left out 2 x head" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vil_mini", {"window_size": 3}),
        ("vil_mini", {"image_size": 96}),
        ("cvt_mini", {"relative_positions": True, "window_size": [3, 4, 3, 2]}),
        ("swin_mini", {"window_size": [4, 2]}),
        ("swin_mini", {"window_size": 8}),
        ("swin_mini", {"mlp_ratio": 2.5, "absolute_positions": True}),
        ("swin_mini", {"absolute_positions": True, "image_size": 48}),
        ("deit_mini", {"options": {"patch_size": 8, "img_size": 64}}),
    ],
)
def test_what_differs_from_a_row_is_seen_in_the_tensors(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    network = make(name, **changes)
    saved, _ = load(whole(network, name), tmp_path)
    found = BackboneConfig.model_validate(saved["config"]["model"]["backbone"]).architecture
    assert found == BackboneConfig(name=name, **changes).architecture
    assert_same(restored(saved), network)


@pytest.mark.parametrize(("words", "mode"), [(["MODEL.SPEC.MSVIT.MODE", "0"], 0), ([], 1)])
def test_the_mode_of_a_vil_is_that_of_its_command(words: list[str], mode: int, tmp_path: Path) -> None:
    saved = whole(make("vil_mini"), "vil_mini")
    saved["args"].opts = ["MODEL.SPEC.MSVIT.ARCH", "l1,h3", *words, "MODEL.SPEC.MSVIT.VIL_MODE_SWITCH", "0.75"]
    found, _ = load(saved, tmp_path)
    architecture: Any = BackboneConfig.model_validate(found["config"]["model"]["backbone"]).architecture
    assert architecture.mode == mode


def test_a_vil_with_layers_of_its_own_for_global_tokens_is_refused(tmp_path: Path) -> None:
    saved = whole(make("vil_mini"), "vil_mini")
    saved["teacher"] = {**saved["teacher"], "layer1.1.attn.kv_global.weight": torch.zeros(24, 12)}
    with pytest.raises(OfficialCheckpointError, match=r"teacher has layer1.*kv_global\.weight beside .*SHARE_W"):
        load(saved, tmp_path)


@pytest.mark.parametrize("name", MINIS)
def test_a_tensor_too_few_too_many_or_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    state = their_state(make(name), name)
    victim = next(n for n in state if "norm" in n or "bn1" in n)
    for damaged, problem in (
        ({n: t for n, t in state.items() if n != victim}, "it lacks backbone."),
        ({**state, "extra.weight": torch.zeros(1)}, "extra.weight, which the network lacks"),
        ({**state, victim: torch.zeros(5)}, r"is of shape \[5\], not"),
    ):
        with pytest.raises(OfficialCheckpointError, match=f"teacher does not fit {name}: .*{problem}"):
            load({"teacher": damaged}, tmp_path)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            {"teacher": {"stem.weight": torch.zeros(3)}},
            "holds an unknown backbone; the known ones are Swin, ViL",
        ),
        ({"epoch": 3}, "has neither a 'student' nor a 'teacher'"),
        ({"teacher": {"a": 1}}, "has neither a 'student' nor a 'teacher'"),
        ({}, "has neither a 'student' nor a 'teacher'"),
    ],
)
def test_files_without_a_network_that_we_know(saved: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OfficialCheckpointError, match=message):
        load(saved, tmp_path)


def test_who_asks_for_the_network_that_is_not_there_is_told_of_the_other(tmp_path: Path) -> None:
    network = make("swin_mini")
    saved, _ = load({"student": their_state(network, "swin_mini")}, tmp_path)
    with pytest.raises(CheckpointError, match="has no teacher; add --network student to take its student"):
        load_backbone(saved, "teacher")
    with pytest.raises(CheckpointError, match="has no teacher; add --network student"):
        export(saved, "teacher", Store(tmp_path / "exported"))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_backbone(saved, "student")(images).pooled, network.backbone(images).pooled)
    assert export(saved, "student", Store(tmp_path / "exported")) == ["model.safetensors", "config.json"]


def test_training_does_not_start_from_one_network(tmp_path: Path) -> None:
    saved, _ = load({"teacher": their_state(make("swin_mini"), "swin_mini")}, tmp_path)
    model = ModelConfig.model_validate(saved["config"]["model"])
    networks = StudentTeacher(model, with_regions=True)
    unused: Any = None
    state = TrainState(networks=networks, loss=unused, optimizer=unused, scaler=unused, loader=None, config={})
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    with pytest.raises(CheckpointError, match="has no student, no centres, no optimiser state, so "):
        state.start_from(saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert state.start_backbone_from(saved) == []
