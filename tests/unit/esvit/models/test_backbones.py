"""What every backbone owes: its published size, images of any size, and a student that can be trained."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BACKBONES, BackboneConfig, build_backbone
from esvit.models.cvt import _WindowAttention
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from pipeline.config import ConfigError, load
from pipeline.errors import UserError

# Every row, as narrow and shallow as its family allows.
TINY: dict[str, dict[str, object]] = {
    **{
        name: {"embed_dim": 8 * heads, "depths": (1, 2, 1, 1)}
        for name, heads in [("swin_tiny", 3), ("swin_small", 3), ("swin_base", 4), ("swin_large", 6)]
    },
    "swin_nano": {"embed_dim": 16},
    "vil_2262": {"widths": (12, 12, 24, 24), "depths": (1, 1, 1, 1), "window_size": 3},
    "cvt_tiny": {"widths": (8, 24, 48, 96), "depths": (1, 1, 1, 1)},
    **{
        name: {"options": {"embed_dim": 24, "depth": 2, "num_heads": 3}}
        for name in ("deit_tiny", "deit_small", "vit_base")
    },
    "resnet50": {"options": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}},
    "timm/convnext_atto": {"options": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}},
}
PARAMETERS = {
    "swin_nano": 136_172,
    "swin_tiny": 27_519_354,
    "swin_small": 48_837_258,
    "swin_base": 86_743_224,
    "swin_large": 194_995_476,
    "vil_2262": 27_569_352,
    "cvt_tiny": 29_303_616,
    "deit_tiny": 5_524_416,
    "deit_small": 21_665_664,
    "vit_base": 85_798_656,
    "resnet50": 23_508_032,
}


def tiny(name: str, **changes: object) -> BackboneConfig:
    return BackboneConfig(name=name, **{**TINY[name], **changes})


def test_no_row_goes_untested() -> None:
    assert PARAMETERS.keys() == BACKBONES.keys() <= TINY.keys()


@pytest.mark.parametrize("name", BACKBONES)
def test_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name), drop_path=True)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_takes_any_image_size(name: str) -> None:
    backbone = build_backbone(tiny(name), drop_path=False)
    strides = {"swin_nano": 8, "deit_tiny": 16, "deit_small": 16, "vit_base": 16}
    stride = strides.get(name, 32)
    for height, width in [(32, 32), (96, 96), (64, 128), (96, 160)]:
        pooled, regions = backbone(torch.randn(2, 3, height, width))
        assert regions.shape == (2, math.ceil(height / stride) * math.ceil(width / stride), backbone.width)
        assert pooled.shape == (2, backbone.width)
        if stride != 16:  # class tokens
            torch.testing.assert_close(pooled, regions.mean(dim=1))


@pytest.mark.parametrize("name", TINY)
def test_trains_three_steps(name: str) -> None:
    torch.manual_seed(0)
    head = HeadConfig(num_prototypes=16, hidden=16, bottleneck=8)
    networks = StudentTeacher(ModelConfig(backbone=tiny(name), head=head), with_regions=True)
    loss = EsvitLoss(LossConfig(), 16)
    optimizer = torch.optim.AdamW(networks.student.parameters(), lr=1e-3)
    before = {n: p.detach().clone() for n, p in networks.student.named_parameters()}
    for _ in range(3):
        views = [torch.randn(2, 2, 3, 64, 64), torch.randn(2, 2, 3, 32, 48)]
        with torch.no_grad():
            targets = networks.teacher(views[:1])
        scalars = loss(networks.student(views), targets, 0.04)
        optimizer.zero_grad()
        scalars["loss"].backward()
        optimizer.step()
        networks.update_teacher(0.9)
        assert all(bool(value.isfinite()) for value in scalars.values())
    unmoved = [n for n, p in networks.student.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert unmoved == []


@pytest.mark.parametrize("name", TINY)
def test_recomputing_changes_no_number(name: str) -> None:
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        backbone = build_backbone(tiny(name, recompute=recompute), drop_path=True)
        features = backbone(torch.randn(2, 3, 64, 64))
        features.regions.square().sum().backward()
        results.append(
            (features.regions.detach(), [p.grad for p in backbone.parameters()], list(backbone.state_dict()))
        )
    (plain, plain_gradients, plain_names), (again, gradients, names) = results
    assert torch.equal(plain, again) and plain_names == names
    for expected, found in zip(plain_gradients, gradients, strict=True):
        if expected is None or found is None:
            assert expected is found
        else:
            assert torch.allclose(expected, found, rtol=1e-5, atol=1e-6)


def test_vit_pools_the_class_token_of_timm() -> None:
    backbone = build_backbone(BackboneConfig(name="deit_tiny"), drop_path=False).eval()
    stock = timm.create_model("deit_tiny_patch16_224", num_classes=0).eval()
    stock.load_state_dict({k.removeprefix("network."): v for k, v in backbone.state_dict().items()})
    images = torch.randn(1, 3, 224, 224)
    expected = stock.forward_features(images)
    pooled, regions = backbone(images)
    torch.testing.assert_close(pooled, expected[:, 0])
    torch.testing.assert_close(regions, expected[:, 1:])


def cvt_attention_by_loops(layer: _WindowAttention, x: Tensor) -> Tensor:
    """One map x [H, W, D], query by query; the scale is that of the full width."""
    height, width, dim = x.shape
    window = min(layer.window, height, width)
    rows, columns = (math.ceil(size / window) * window for size in (height, width))
    padded = nn.functional.pad(x, (0, 0, 0, columns - width, 0, rows - height))
    mixed = layer.norm(layer.depthwise(padded.permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
    q, k, v = layer.qkv(mixed).split(dim, dim=-1)
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            r, c = i // window * window, j // window * window
            parts = []
            for head in torch.arange(dim).chunk(layer.heads):
                keys = k[r : r + window, c : c + window, head].flatten(0, 1)
                values = v[r : r + window, c : c + window, head].flatten(0, 1)
                parts.append((keys @ q[i, j, head] * dim**-0.5).softmax(0) @ values)
            out[i, j] = layer.proj(torch.cat(parts))
    return out


@pytest.mark.parametrize("size", [(8, 8), (6, 5), (3, 7)])
@torch.no_grad()
def test_cvt_attention_equals_plain_loops(size: tuple[int, int]) -> None:
    layer = _WindowAttention(8, heads=2, window=4).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(*size, 8, dtype=torch.double)
    torch.testing.assert_close(layer(x[None])[0], cvt_attention_by_loops(layer, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["name=resnet50", "window_size=7"], "resnet50 has no window_size; it has drop_path_rate, model, options"),
        (["name=timm/resnet5O"], "timm has no model 'resnet5O'; it has"),
        (["name=vil_2262", "mode=2"], "config key 'mode'"),
        (["name=cvt_tiny", "widths=[8, 8]"], "one entry per stage each"),
        (["name=cvt_tiny", "widths=[8, 8, 8, 8]"], "width 8 cannot be split into 3 attention heads"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(BackboneConfig, [], overrides)


def test_options_are_added_to_those_of_the_row() -> None:
    backbone: Any = build_backbone(tiny("resnet50"), drop_path=False)
    assert len(backbone.network.layer1) == 1  # as asked for, and the row's own is not lost:
    assert all(bool((block.bn3.weight == 1).all()) for block in backbone.blocks if hasattr(block, "bn3"))


def test_options_that_timm_refuses_are_named() -> None:
    config = BackboneConfig(name="resnet50", options={"no_such_option": 1})
    with pytest.raises(UserError, match=r"timm cannot build 'resnet50'.*no_such_option"):
        build_backbone(config, drop_path=False)
