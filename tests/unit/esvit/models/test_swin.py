"""Swin against two oracles: a block written as plain loops over tokens, and timm where both must agree."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from esvit.models import BACKBONES, BackboneConfig, build_backbone
from esvit.models.swin import PadThenRollBlock
from esvit.models.windows import shift_mask, window_attention
from pipeline.config import ConfigError, load

WINDOW = 4


def make_block(shift: int) -> PadThenRollBlock:
    """A block of width 8 with 2 heads whose every parameter matters."""
    torch.manual_seed(0)
    block = PadThenRollBlock(
        8, input_resolution=(16, 16), num_heads=2, window_size=WINDOW, shift_size=shift, dynamic_mask=True
    )
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def block_by_loops(block: PadThenRollBlock, x: Tensor, shift: int) -> Tensor:
    """The block on one map x [H, W, D], query by query, key by key; positions are after pad and roll."""
    height, width, dim = x.shape
    padded = [math.ceil(size / WINDOW) * WINDOW for size in (height, width)]
    heads, head_dim = block.attn.num_heads, dim // block.attn.num_heads

    def rolled(i: int, j: int) -> tuple[int, int]:
        return (i - shift) % padded[0], (j - shift) % padded[1]

    def border(position: int, size: int) -> int:  # which part of the map the roll took this row or column from
        return 0 if position < size - WINDOW else 1 if position < size - shift or not shift else 2

    tokens = {}
    for i in range(padded[0]):
        for j in range(padded[1]):
            real = i < height and j < width
            tokens[rolled(i, j)] = block.attn.qkv(block.norm1(x[i, j]) if real else x.new_zeros(dim))

    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            r, c = rolled(i, j)
            attended = []
            for head in range(heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                scores, values = [], []
                for (kr, kc), qkv in tokens.items():
                    if (kr // WINDOW, kc // WINDOW) != (r // WINDOW, c // WINDOW):
                        continue
                    key, value = qkv[dim : 2 * dim][part], qkv[2 * dim :][part]
                    score = tokens[r, c][:dim][part] @ key / math.sqrt(head_dim)
                    row = (r - kr + WINDOW - 1) * (2 * WINDOW - 1) + (c - kc + WINDOW - 1)
                    score = score + block.attn.relative_position_bias_table[row, head]
                    same_row = border(r, padded[0]) == border(kr, padded[0])
                    same_column = border(c, padded[1]) == border(kc, padded[1])
                    scores.append(score if same_row and same_column else score - 100)
                    values.append(value)
                weights = torch.stack(scores).softmax(dim=0)
                attended.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            y = x[i, j] + block.attn.proj(torch.cat(attended))
            out[i, j] = y + block.mlp(block.norm2(y))
    return out


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (6, 6), (3, 3), (5, 9)])
@torch.no_grad()
def test_block_equals_plain_loops(size: tuple[int, int], shift: int) -> None:
    block = make_block(shift)
    x = torch.randn(2, *size, 8, dtype=torch.double)
    expected = torch.stack([block_by_loops(block, image, shift) for image in x])
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [7, 14])
@torch.no_grad()
def test_equals_timm_at_construction_size(window: int) -> None:
    config = BackboneConfig(name="swin_tiny", window_size=window, embed_dim=24, num_heads=(1, 2, 3, 6), image_size=224)
    ours = build_backbone(config, drop_path=False)
    stock = timm.models.SwinTransformer(
        window_size=window,
        embed_dim=24,
        num_heads=(1, 2, 3, 6),
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    stock.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(ours(images).regions, stock.forward_features(images).flatten(1, 2))


@pytest.mark.parametrize(
    ("name", "window", "parameters"),
    [
        ("swin_tiny", 14, 27_569_754),
        ("swin_small", 14, 48_968_298),
        ("swin_base", 14, 86_917_944),
    ],
)
def test_published_parameter_counts_of_other_windows(name: str, window: int, parameters: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name, window_size=window), drop_path=True)
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_windows_and_shifts_of_window_14_at_224() -> None:
    with torch.device("meta"):
        backbone: Any = build_backbone(BackboneConfig(window_size=14), drop_path=False)
    blocks = [stage.blocks[1] for stage in backbone.layers]
    assert [block.window_size[0] for block in blocks] == [14, 14, 14, 7]
    assert [block.shift_size[0] for block in blocks] == [7, 7, 0, 0]


@pytest.mark.parametrize("shifted", [False, True])
def test_fused_attention_equals_the_plain_formula(shifted: bool) -> None:
    query, key, value = torch.randn(3, 8, 2, 16, 4).unbind(0)  # 2 images of 4 windows
    bias = torch.randn(4 if shifted else 1, 2, 16, 16)
    plain, fused = (window_attention(query, key, value, bias, fused) for fused in (False, True))
    torch.testing.assert_close(fused, plain)


def test_drop_path_rises_linearly_and_spares_the_teacher() -> None:
    config = BackboneConfig(embed_dim=6, num_heads=(1, 1, 1, 1), drop_path_rate=0.11)
    student, teacher = (build_backbone(config, drop_path=flag) for flag in (True, False))
    rates = [m.drop_prob for m in student.modules() if type(m).__name__ == "DropPath"][::2]
    assert rates == pytest.approx([0.01 * i for i in range(1, 12)])  # block 0 has none
    assert not any(type(m).__name__ == "DropPath" for m in teacher.modules())


def test_shift_mask_is_shared_and_outside_the_state() -> None:
    backbone = build_backbone(BackboneConfig(name="swin_nano"), drop_path=False)
    shift_mask.cache_clear()
    with torch.inference_mode():
        backbone(torch.randn(1, 3, 32, 32))
    backbone(torch.randn(1, 3, 32, 32)).pooled.sum().backward()  # a mask made in inference serves training
    assert shift_mask.cache_info().misses == 1
    assert not any("mask" in name or "index" in name for name in backbone.state_dict())


def test_nano_is_small() -> None:
    backbone = build_backbone(BackboneConfig(name="swin_nano"), drop_path=True)
    assert sum(p.numel() for p in backbone.parameters()) < 160_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=swin_tyni", "config key 'name': there is no 'swin_tyni'; choose one of .*did you mean 'swin_tiny'"),
        ("num_heads=[3, 6]", "one entry per stage each"),
        ("embed_dim=100", "width 100 cannot be split into 3 attention heads"),
        ("image_size=3", "smaller than one patch"),
        ("drop_path_rate=1.5", "drop_path_rate"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(BackboneConfig, [], [override])


def test_overrides_change_the_row_and_nothing_else() -> None:
    config = BackboneConfig(name="swin_base", window_size=14)
    assert config.architecture == replace(BACKBONES["swin_base"], window_size=14)
