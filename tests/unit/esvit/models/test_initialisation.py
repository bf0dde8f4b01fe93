"""How every backbone starts: the table of docs/backbones.md, held against the networks themselves."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esvit.models import Backbone, BackboneConfig, build_backbone

# One row of each family, in its full size.
FAMILIES = ["swin_tiny", "vil_2262", "cvt_tiny", "deit_tiny", "resnet50"]
EPS = {"swin_tiny": 1e-6, "vil_2262": 1e-6, "cvt_tiny": 1e-5, "deit_tiny": 1e-6, "resnet50": 1e-5}
DROP_PATH = {"swin_tiny": 0.1, "vil_2262": 0.1, "cvt_tiny": 0.1, "deit_tiny": 0.1, "resnet50": 0.0}
NORMS = (nn.LayerNorm, nn.BatchNorm2d)
# Parameters that belong to no layer: tables of positions, class and global tokens.
LOOSE = ("table", "pos_embed", "cls_token", "global_tokens", "local_bias", "mixed_bias", "global_bias")


@cache
def build(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name), drop_path=True)


def assert_normal(values: Tensor, deviation: float) -> None:
    """Mean 0 and this deviation, to five standard errors.

    Of the authors' and timm's truncated normal about one weight in thirty million is -2, a hundred deviations off.
    """
    values = values[values > -2]
    error = 5 / math.sqrt(values.numel())
    assert abs(float(values.mean())) < error * deviation
    assert float(values.square().mean().sqrt()) == pytest.approx(deviation, rel=error)


@pytest.mark.parametrize("name", FAMILIES)
def test_linear_layers_start_at_two_hundredths(name: str) -> None:
    layers = [module for module in build(name).modules() if isinstance(module, nn.Linear)]
    assert bool(layers) == (name != "resnet50")
    for layer in layers:
        assert_normal(layer.weight.detach(), 0.02)
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("name", FAMILIES)
def test_convolutions_start_as_in_the_original(name: str) -> None:
    layers = [module for module in build(name).modules() if isinstance(module, nn.Conv2d)]
    assert layers
    for layer in layers:
        weight, fan_in = layer.weight.detach(), layer.weight[0].numel()
        if name == "resnet50":
            assert_normal(weight, math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel())))
            assert layer.bias is None
        elif name == "cvt_tiny":
            assert_normal(weight, 0.02)
            assert layer.bias is None or not layer.bias.any()
        else:  # torch's own: uniform, weight and bias
            assert_normal(weight, 1 / math.sqrt(3 * fan_in))
            assert layer.bias is not None and 0 < float(layer.bias.detach().abs().max()) <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("name", FAMILIES)
def test_norms_start_at_one_and_have_the_published_eps(name: str) -> None:
    """The last batch norm of a residual branch of ResNet-50 too."""
    norms = [module for module in build(name).modules() if isinstance(module, NORMS)]
    assert norms
    for norm in norms:
        assert bool((norm.weight == 1).all()) and not norm.bias.any()
        assert norm.eps == EPS[name] and getattr(norm, "momentum", 0.1) == 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_and_tokens_start_at_two_hundredths(name: str) -> None:
    loose = [p.detach().flatten() for key, p in build(name).named_parameters() if key.endswith(LOOSE)]
    assert bool(loose) == (name in ("swin_tiny", "vil_2262", "deit_tiny"))
    for values in loose:
        if len(values) > 100:
            assert_normal(values, 0.02)
        assert 0 < float(values.abs().max()) < 0.12


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_dropped_but_paths(name: str) -> None:
    modules: list[Any] = list(build(name).modules())
    assert not any(module.p for module in modules if isinstance(module, nn.Dropout))
    rates = [module.drop_prob for module in modules if type(module).__name__ == "DropPath"]
    assert max(rates, default=0.0) == pytest.approx(DROP_PATH[name])


@pytest.mark.parametrize("name", FAMILIES)
def test_activations_are_exact(name: str) -> None:
    assert all(m.approximate == "none" for m in build(name).modules() if isinstance(m, nn.GELU))


@pytest.mark.parametrize(
    ("name", "rate"), [("swin_small", 0.2), ("swin_base", 0.2), ("swin_large", 0.2), ("vit_base", 0.1)]
)
def test_drop_path_of_the_other_rows(name: str, rate: float) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name), drop_path=True)
    modules: list[Any] = list(backbone.modules())
    rates = [module.drop_prob for module in modules if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(rate)
