"""Options of Swin and CvT beyond the published rows, each against plain loops or timm."""

import math
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esvit.models import BackboneConfig, build_backbone
from esvit.models.cvt import _WindowAttention
from pipeline.config import ConfigError, load

SWIN = BackboneConfig(name="swin_nano", embed_dim=16)  # 32 px, patch 4, two stages of two blocks
CVT = BackboneConfig(name="cvt_tiny", widths=(8, 24, 48, 96), depths=(2, 2, 2, 2), window_size=3)


@pytest.mark.parametrize(
    "options", [{"window_size": (4, 2)}, {"mlp_ratio": 2.5}, {"window_size": (2, 4), "mlp_ratio": 3}]
)
@torch.no_grad()
def test_a_swin_of_other_windows_and_ratio_is_timm_s(options: dict[str, Any]) -> None:
    ours: Any = build_backbone(SWIN.replace(**options), drop_path=False)
    windows = options.get("window_size", (4, 4))
    stock = timm.models.SwinTransformer(
        img_size=32,
        patch_size=4,
        window_size=[[side, side] for side in windows],
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        mlp_ratio=options.get("mlp_ratio", 4.0),
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    stock.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images).regions, stock.forward_features(images).flatten(1, 2))
    assert [stage.blocks[1].window_size[0] for stage in ours.layers] == list(windows)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (24, 48)])
@torch.no_grad()
def test_absolute_positions_are_added_to_the_patches(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    with_positions = build_backbone(SWIN.replace(absolute_positions=True), drop_path=False)
    without = build_backbone(SWIN, drop_path=False)
    state = with_positions.state_dict()
    places = state.pop("absolute_pos_embed")
    assert places.shape == (1, 64, 16) and 0.01 < float(places.std()) < 0.03
    without.load_state_dict(state)
    rows, columns = (side // 4 for side in size)
    grid = F.interpolate(places.view(1, 8, 8, 16).permute(0, 3, 1, 2), size=(rows, columns), mode="bicubic")
    patch_embed: Any = without.patch_embed
    patch_embed.register_forward_hook(lambda *output: output[-1] + grid.permute(0, 2, 3, 1))
    images = torch.randn(1, 3, *size)
    torch.testing.assert_close(with_positions(images).regions, without(images).regions)


def attention_by_loops(layer: _WindowAttention, x: Tensor) -> Tensor:
    """One map x [H, W, D], query by query, with shifted windows and a bias by distance."""
    height, width, dim = x.shape
    window = min(layer.window, height, width)
    rows, columns = (math.ceil(size / window) * window for size in (height, width))
    shift = window // 2 if layer.shift and (rows, columns) != (window, window) else 0
    padded = F.pad(x, (0, 0, 0, columns - width, 0, rows - height))
    mixed = layer.norm(layer.depthwise(padded.permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
    q, k, v = layer.qkv(mixed).split(dim, dim=-1)

    def place(i: int, size: int) -> tuple[int, int]:
        """Which window a row or column is in, and which end of the map it comes from: those do not mix."""
        rolled = (i - shift) % size
        return rolled // window, int(rolled >= size - shift)

    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            seen = [
                (a, b)
                for a in range(rows)
                for b in range(columns)
                if place(a, rows) == place(i, rows) and place(b, columns) == place(j, columns)
            ]
            parts = []
            for head, part in enumerate(torch.arange(dim).chunk(layer.heads)):
                scores = torch.stack([k[a, b, part] @ q[i, j, part] * dim**-0.5 for a, b in seen])
                if layer.relative_position_bias_table is not None:
                    side = 2 * layer.window - 1
                    steps = [(i - a + layer.window - 1) * side + j - b + layer.window - 1 for a, b in seen]
                    scores = scores + layer.relative_position_bias_table[steps, head]
                parts.append(scores.softmax(0) @ torch.stack([v[a, b, part] for a, b in seen]))
            out[i, j] = layer.proj(torch.cat(parts))
    return out


@pytest.mark.parametrize(("shift", "relative"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("size", [(8, 8), (6, 5), (4, 4), (3, 7), (2, 2)])
@torch.no_grad()
def test_shift_and_positions_of_cvt_equal_plain_loops(size: tuple[int, int], shift: bool, relative: bool) -> None:
    torch.manual_seed(0)
    layer = _WindowAttention(8, 2, 4, shift, relative).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)  # scores stay far from the -100 of the mask
    x = torch.randn(2, *size, 8, dtype=torch.double)
    expected = torch.stack([attention_by_loops(layer, image) for image in x])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


def test_every_second_block_of_a_cvt_shifts_and_every_one_has_its_table() -> None:
    config = CVT.replace(shift=True, relative_positions=True, window_size=(2, 3, 4, 3))
    backbone: Any = build_backbone(config, drop_path=False)
    layers = [block.attn for block in backbone.blocks]
    assert [layer.shift for layer in layers] == [False, True] * 4
    tables = [layer.relative_position_bias_table for layer in layers]
    assert [len(table) for table in tables] == [9, 9, 25, 25, 49, 49, 25, 25]
    assert all(0.005 < float(table.detach().std()) < 0.04 for table in tables)
    without: Any = build_backbone(CVT, drop_path=False)
    assert all(block.attn.relative_position_bias_table is None for block in without.blocks)


@pytest.mark.parametrize(
    "config",
    [
        SWIN.replace(window_size=(2, 4), mlp_ratio=2.0, absolute_positions=True),
        CVT.replace(shift=True, relative_positions=True),
        BackboneConfig(name="vil_2262", widths=(12, 12, 24, 24), depths=(1, 1, 1, 1), window_size=(3, 2, 7, 7)),
    ],
    ids=lambda config: config.name,
)
def test_they_train_at_two_sizes(config: BackboneConfig) -> None:
    backbone = build_backbone(config, drop_path=True)
    loss = sum(backbone(torch.randn(2, 3, side, side)).regions[..., 0].square().sum() for side in (64, 32))
    loss.backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["name=swin_tiny", "window_size=[7, 7]"], r"window_size \[7, 7\] has 2 entries for 4 stages"),
        (["name=cvt_tiny", "window_size=[7, 7]"], r"window_size \[7, 7\] has 2 entries for 4 stages"),
        (["name=vil_2262", "window_size=[7]"], r"window_size \[7\] has 1 entries for 4 stages"),
        (["name=swin_tiny", "window_size=0"], "window_size"),
        (["name=swin_tiny", "mlp_ratio=0"], "mlp_ratio"),
        (["name=swin_tiny", "shift=true"], "swin_tiny has no shift"),
        (["name=cvt_tiny", "absolute_positions=true"], "cvt_tiny has no absolute_positions"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(BackboneConfig, [], overrides)
