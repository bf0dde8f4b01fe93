"""ViL's attention against plain loops over queries and keys, with all neighbouring windows and with a random one."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esvit.models import BackboneConfig, build_backbone
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.models.vil import VilArchitecture
from esvit.models.vil_attention import VilAttention
from pipeline.errors import UserError

SMALL = BackboneConfig(name="vil_2262", widths=(12, 12, 24, 24), depths=(2, 1, 1, 1), window_size=3)
EIGHT = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
Windows = list[tuple[int, int]]


def vil_attention_by_loops(
    layer: VilAttention, tokens: Tensor, height: int, width: int, neighbours: Windows = EIGHT
) -> Tensor:
    """Tokens [G + H * W, D] of one image, query by query: own and neighbouring windows, and the global tokens."""
    num_global, window, dim, reach = layer.num_global, layer.window, tokens.shape[1], layer.reach
    places = [None] * num_global + [(i, j) for i in range(height) for j in range(width)]

    def sees(query: tuple[int, int], key: tuple[int, int]) -> bool:
        if not window:
            return True
        down, right = (y // window - x // window for x, y in zip(query, key, strict=True))
        return (down, right) in [(0, 0), *neighbours]

    def bias(i: int, j: int, head: int) -> Tensor:
        a, b = places[i], places[j]
        if a is None or b is None:
            if a is None and b is None:
                return layer.global_bias[head, i, j]
            return layer.mixed_bias[0, head, i] if a is None else layer.mixed_bias[1, head, j]
        down, right = (max(-reach + 1, min(reach - 1, x - y)) + reach - 1 for x, y in zip(a, b, strict=True))
        return layer.local_bias[down * (2 * reach - 1) + right, head]

    q, k, v = layer.qkv(tokens).split(dim, dim=-1)
    out = []
    for i, here in enumerate(places):
        seen = [j for j, there in enumerate(places) if here is None or there is None or sees(here, there)]
        parts = []
        for head, part in enumerate(torch.arange(dim).chunk(layer.heads)):
            scores = k[seen][:, part] @ q[i, part] * len(part) ** -0.5
            scores = scores + torch.stack([bias(i, j, head) for j in seen])
            parts.append(scores.softmax(0) @ v[seen][:, part])
        out.append(layer.proj(torch.cat(parts)))
    return torch.stack(out)


def make_layer(window: int, num_global: int, **options: bool) -> VilAttention:
    torch.manual_seed(0)
    layer = VilAttention(8, heads=2, window=window, num_global=num_global, reach=4, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("num_global", [0, 2])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 3)])
@torch.no_grad()
def test_attention_equals_plain_loops(size: tuple[int, int], num_global: int, window: int) -> None:
    layer = make_layer(window, num_global)
    tokens = torch.randn(1, num_global + math.prod(size), 8, dtype=torch.double)
    expected = vil_attention_by_loops(layer, tokens[0], *size)
    torch.testing.assert_close(layer(tokens, *size)[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 3)])
@torch.no_grad()
def test_in_training_a_layer_attends_to_one_random_neighbour_of_eight(size: tuple[int, int]) -> None:
    layer = make_layer(2, 1, one_neighbour=True)
    tokens = torch.randn(1, 1 + math.prod(size), 8, dtype=torch.double)
    by_neighbour = [vil_attention_by_loops(layer, tokens[0], *size, [one]) for one in EIGHT]
    counts = [0] * 8
    for seed in range(60):
        torch.manual_seed(seed)
        found = layer(tokens, *size)[0]
        torch.manual_seed(seed)
        assert torch.equal(layer(tokens, *size)[0], found)  # the same draw
        same = [i for i, expected in enumerate(by_neighbour) if torch.allclose(found, expected, rtol=0, atol=1e-10)]
        assert same  # more than one where neighbours lie outside of the map
        for i in same:
            counts[i] += 1
    assert min(counts) > 0


@torch.no_grad()
def test_in_evaluation_it_attends_to_all_eight() -> None:
    layer = make_layer(2, 1, one_neighbour=True).eval()
    tokens = torch.randn(1, 1 + 36, 8, dtype=torch.double)
    torch.testing.assert_close(layer(tokens, 6, 6)[0], vil_attention_by_loops(layer, tokens[0], 6, 6))


def outputs(backbone: nn.Module, *seeds: int) -> list[Tensor]:
    """The pooled feature of one image at each seed."""
    image = torch.linspace(-1, 1, 3 * 96 * 96).sin().view(1, 3, 96, 96)
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(backbone(image).pooled.detach())
    return found


def test_the_published_recipe_is_the_default_and_student_and_teacher_follow_it() -> None:
    assert VilArchitecture((12,) * 4, (1,) * 4, (1,) * 4, 0.0).mode == 1
    head = HeadConfig(num_prototypes=4, hidden=4, bottleneck=4)
    networks = StudentTeacher(ModelConfig(backbone=SMALL.replace(drop_path_rate=0.0), head=head), with_regions=False)
    for network in (networks.student, networks.teacher):
        first, same, other = outputs(network.backbone, 1, 1, 2)
        assert torch.equal(first, same) and not torch.equal(first, other)
        first, other = outputs(network.backbone.eval(), 1, 2)
        assert torch.equal(first, other)


def test_layers_draw_one_after_the_other() -> None:
    modules: list[Any] = list(build_backbone(SMALL, drop_path=False).modules())
    layers = [m for m in modules if getattr(m, "one_neighbour", False)]
    assert len(layers) == 3  # of the first two stages
    torch.manual_seed(0)
    draws = [tuple(layers[0]._windows_seen(torch.device("cpu"))[1].tolist()) for _ in range(40)]
    assert len(set(draws)) == 8 and (1, 1) not in draws


def test_mode_0_attends_to_all_eight_in_training_too() -> None:
    backbone = build_backbone(SMALL.replace(mode=0), drop_path=False)
    first, other = outputs(backbone, 1, 2)
    assert torch.equal(first, other)
    published = build_backbone(SMALL, drop_path=False).eval()
    published.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(outputs(published, 1), outputs(backbone, 1))


def test_another_mode_is_refused() -> None:
    with pytest.raises(UserError, match="a ViL has no mode 2; choose 0"):
        VilArchitecture((12,) * 4, (1,) * 4, (1,) * 4, 0.0, mode=2)


@pytest.mark.parametrize("side", [3, 4, 6])
@torch.no_grad()
def test_full_attention_resizes_the_matrix_of_biases(side: int) -> None:
    """As the authors, who know its rows and columns only by their number."""
    layer = make_layer(0, 0, resizes=True)
    at_home = torch.empty(2, 16, 16, dtype=torch.double)
    for i in range(16):
        for j in range(16):
            down, right = i // 4 - j // 4, i % 4 - j % 4
            at_home[:, i, j] = layer.local_bias[(down + 3) * 7 + right + 3]
    bias = F.interpolate(at_home[None], scale_factor=side**2 / 16, mode="bicubic")[0]
    tokens = torch.randn(1, side**2, 8, dtype=torch.double)
    q, k, v = layer.qkv(tokens).view(-1, 3, 2, 4).permute(1, 2, 0, 3)
    expected = layer.proj((((q @ k.mT) / 2 + bias).softmax(-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer(tokens, side, side)[0], expected)


def test_the_published_network_resizes_them() -> None:
    layers = [m for m in build_backbone(SMALL, drop_path=False).modules() if isinstance(m, VilAttention)]
    assert [layer.resizes for layer in layers] == [layer.window == 0 for layer in layers]
