import copy
from typing import Any, Literal

import pytest
import torch
from torch import nn

from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from esvit.optim import (
    OptimConfig,
    OptimizerStateError,
    apply_schedule,
    build_optimizer,
    clip_gradients,
    freeze_last_layers,
    load_optimizer_state_by_name,
    optimizer_state_by_name,
    step_unless,
)

HEAD = HeadConfig(num_prototypes=10, hidden=16, bottleneck=8)


def make_network(with_regions: bool = True, **head: bool) -> Network:
    config = ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=HEAD.replace(**head))
    return Network(config, drop_path=False, with_regions=with_regions)


def fill_gradients(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_the_defaults_are_the_paper_s() -> None:
    assert OptimConfig().model_dump() == {
        "name": "adamw", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
        "clip_norm": 3.0, "clip": "per_tensor", "freeze_last_layer_epochs": 1
    }  # fmt: skip


def test_only_biases_and_vectors_escape_decay() -> None:
    network = make_network()
    decayed, exempt = build_optimizer(network, OptimConfig()).param_groups
    names = dict(network.named_parameters())
    assert set(decayed["param_names"]) | set(exempt["param_names"]) == set(names)
    assert all(names[name].ndim == 1 for name in exempt["param_names"])
    assert not any(name.endswith("bias") for name in decayed["param_names"])
    for quirk in ("layers.0.blocks.1.attn.relative_position_bias_table", "last_layer.weight_g"):
        assert any(name.endswith(quirk) for name in decayed["param_names"])


def test_frozen_prototype_lengths_are_not_optimised() -> None:
    optimizer = build_optimizer(make_network(norm_last_layer=True), OptimConfig())
    assert not any("weight_g" in name for group in optimizer.param_groups for name in group["param_names"])


def plain_momentum(p: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float, lars: bool) -> torch.Tensor:
    """Steps of SGD or LARS with momentum 0.9, written from their definitions; vectors have neither decay nor ratio."""
    velocity = torch.zeros_like(p)
    for gradient in gradients:
        move = gradient if p.ndim == 1 else gradient + decay * p
        if lars and p.ndim > 1 and p.norm() > 0 and move.norm() > 0:
            move = move * (0.001 * p.norm() / move.norm())
        velocity = 0.9 * velocity + move
        p = p - lr * velocity
    return p


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_sgd_and_lars_are_those_of_their_definition(name: str) -> None:
    last = nn.Linear(3, 2, bias=False)
    network = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3), last)
    nn.init.zeros_(last.weight)  # of length 0, where a ratio of lengths has no meaning
    optimizer = build_optimizer(network, OptimConfig(name=name))
    apply_schedule(optimizer, lr=0.5, weight_decay=0.1)
    start = {key: p.detach().clone() for key, p in network.named_parameters()}
    gradients: dict[str, list[torch.Tensor]] = {key: [] for key in start}
    for _ in range(3):
        fill_gradients(network)
        for key, p in network.named_parameters():
            assert p.grad is not None
            gradients[key].append(p.grad.clone())
        optimizer.step()
    for key, p in network.named_parameters():
        expected = plain_momentum(start[key], gradients[key], 0.5, 0.1, lars=name == "lars")
        torch.testing.assert_close(p.detach(), expected)


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_sgd_and_lars_skip_on_the_device_s_word_and_leave_what_has_no_gradient(name: str) -> None:
    network = nn.Linear(4, 2)
    optimizer = build_optimizer(network, OptimConfig(name=name))
    apply_schedule(optimizer, lr=0.5, weight_decay=0.1)
    fill_gradients(network)
    step_unless(torch.tensor(False), optimizer)
    before = copy.deepcopy([network.state_dict(), optimizer_state_by_name(optimizer)])
    network.weight.grad = torch.full((2, 4), float("nan"))
    step_unless(torch.tensor(True), optimizer)
    network.zero_grad()
    optimizer.step()
    after = [network.state_dict(), optimizer_state_by_name(optimizer)]
    assert all(torch.equal(after[0][key], tensor) for key, tensor in before[0].items())
    assert all(torch.equal(after[1][key]["momentum"], state["momentum"]) for key, state in before[1].items())


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_state_of_another_optimiser_is_refused(name: str) -> None:
    saved = optimizer_state_by_name(trained(make_network(), 1, name))
    for other in ("adamw", "sgd", "lars"):
        optimizer = build_optimizer(make_network(), OptimConfig(name=other))
        if (name == "adamw") == (other == "adamw"):
            assert load_optimizer_state_by_name(optimizer, saved) == []
        else:
            with pytest.raises(OptimizerStateError, match="is of another optimiser; set optim"):
                load_optimizer_state_by_name(optimizer, saved)


def test_numbers_of_adamw_are_refused_for_the_others() -> None:
    with pytest.raises(ValueError, match="beta2 is a number of adamw; leave it out for name: sgd"):
        OptimConfig(name="sgd", beta2=0.95)
    assert OptimConfig.model_validate(OptimConfig(name="sgd").model_dump()).name == "sgd"


def test_schedule_reaches_its_groups() -> None:
    optimizer = build_optimizer(make_network(), OptimConfig(beta2=0.95, eps=1e-6))
    apply_schedule(optimizer, lr=0.25, weight_decay=0.125)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.25, 0.125), (0.25, 0.0)]
    assert all(g["betas"] == (0.9, 0.95) and g["eps"] == 1e-6 for g in optimizer.param_groups)


def test_clipping_per_tensor_leaves_small_tensors_alone() -> None:
    large, small, unused = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    large.grad, small.grad = torch.full((4,), 10.0), torch.full((4,), 0.5)
    total = clip_gradients([large, unused, small], max_norm=3.0, clip="per_tensor")
    assert float(total) == pytest.approx((20**2 + 1) ** 0.5)
    assert float(large.grad.norm()) == pytest.approx(3, rel=1e-6)
    assert torch.equal(small.grad, torch.full((4,), 0.5))


def test_clipping_globally_equals_torch() -> None:
    network, reference = nn.Linear(5, 3), nn.Linear(5, 3)
    fill_gradients(network)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None
        theirs.grad = ours.grad.clone()
    total = clip_gradients(network.parameters(), 0.5, "global")
    torch.testing.assert_close(total, nn.utils.clip_grad_norm_(reference.parameters(), 0.5))
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("clip", ["per_tensor", "global"])
def test_infinite_norm_clips_nothing(clip: Literal["per_tensor", "global"]) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.0, 1e4, -3.0])
    clip_gradients([parameter], float("inf"), clip)
    assert parameter.grad.tolist() == [0.0, 1e4, -3.0]


def test_frozen_last_layers_do_not_move() -> None:
    network = make_network()
    optimizer = build_optimizer(network, OptimConfig())
    apply_schedule(optimizer, lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(network.state_dict())
    fill_gradients(network)
    freeze_last_layers(network)
    optimizer.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    still = {f"{head}.last_layer.{w}" for head in ("view_head", "region_head") for w in ("weight_g", "weight_v")}
    assert set(before) - moved == still


def trained(network: nn.Module, num_steps: int, name: str = "adamw") -> torch.optim.Optimizer:
    optimizer = build_optimizer(network, OptimConfig(name=name))
    apply_schedule(optimizer, lr=0.01, weight_decay=0.1)
    for _ in range(num_steps):
        fill_gradients(network)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_state_by_name_continues_exactly(name: str) -> None:
    network = make_network()
    optimizer = trained(network, 2, name)
    twin = copy.deepcopy(network)
    resumed = build_optimizer(twin, OptimConfig(name=name))
    apply_schedule(resumed, lr=0.01, weight_decay=0.1)
    assert load_optimizer_state_by_name(resumed, copy.deepcopy(optimizer_state_by_name(optimizer))) == []
    fill_gradients(network)
    for ours, theirs in zip(twin.parameters(), network.parameters(), strict=True):
        assert theirs.grad is not None
        ours.grad = theirs.grad.clone()
    optimizer.step()
    resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    assert [g["param_names"] for g in resumed.param_groups] == [g["param_names"] for g in optimizer.param_groups]


def test_a_grown_network_keeps_its_state_and_names_what_starts_fresh() -> None:
    small = make_network(with_regions=False)
    saved = optimizer_state_by_name(trained(small, 1))
    grown = make_network(with_regions=True)
    optimizer = build_optimizer(grown, OptimConfig())
    fresh = load_optimizer_state_by_name(optimizer, saved)
    assert set(fresh) == {name for name, _ in grown.named_parameters() if name.startswith("region_head.")}
    backbone: Any = grown.backbone
    kept = optimizer.state[backbone.patch_embed.proj.weight]["exp_avg"]
    assert torch.equal(kept, saved["backbone.patch_embed.proj.weight"]["exp_avg"])


def test_state_of_another_network_is_refused() -> None:
    saved = optimizer_state_by_name(trained(make_network(), 1))
    optimizer = build_optimizer(make_network(with_regions=False), OptimConfig())
    with pytest.raises(OptimizerStateError, match=r"'region_head\..*which this network lacks"):
        load_optimizer_state_by_name(optimizer, saved)
    saved["view_head.mlp.0.bias"]["exp_avg"] = torch.zeros(3)
    with pytest.raises(OptimizerStateError, match=r"'view_head.mlp.0.bias' has shape \[3\], not \[16\]"):
        load_optimizer_state_by_name(build_optimizer(make_network(), OptimConfig()), saved)
