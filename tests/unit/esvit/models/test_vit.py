"""ViT and DeiT away from the size that their positions were made for."""

import math

import pytest
import timm
import torch
from torch import Tensor

from esvit.models import BackboneConfig, build_backbone
from esvit.models.timm_backbone import TimmArchitecture
from pipeline.errors import UserError

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3}


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75, as torch's bicubic."""
    x, a = abs(x), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized(line: Tensor, size: int) -> Tensor:
    """Entries [N, ...] at `size` places: four neighbours each, the border repeated, no antialiasing."""
    found = []
    for i in range(size):
        centre = (i + 0.5) * len(line) / size - 0.5
        first = math.floor(centre) - 1
        taps = [(min(max(j, 0), len(line) - 1), cubic(centre - j)) for j in range(first, first + 4)]
        found.append(sum((weight * line[j] for j, weight in taps), torch.zeros_like(line[0])))
    return torch.stack(found)


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (64, 160), (320, 272), (112, 448)])
@pytest.mark.parametrize("name", ["deit_tiny", "deit_small", "vit_base"])
@torch.no_grad()
def test_positions_are_resized_without_antialiasing(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name=name, options=SMALL), drop_path=False).eval()
    state = {key.removeprefix("network."): tensor for key, tensor in backbone.state_dict().items()}
    height, width = (side // 16 for side in size)
    class_place, places = state["pos_embed"][:, :1], state["pos_embed"][0, 1:].view(14, 14, -1)
    places = resized(resized(places, height).transpose(0, 1), width).transpose(0, 1)
    state["pos_embed"] = torch.cat([class_place, places.reshape(1, height * width, -1)], dim=1)
    stock = timm.create_model("deit_tiny_patch16_224", num_classes=0, img_size=size, **SMALL).eval()
    stock.load_state_dict(state)
    images = torch.randn(2, 3, *size)
    expected = stock.forward_features(images)
    pooled, regions = backbone(images)
    torch.testing.assert_close(pooled, expected[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(regions, expected[:, 1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pixels_beyond_the_last_whole_patch_are_not_seen() -> None:
    backbone = build_backbone(BackboneConfig(name="deit_tiny", options=SMALL), drop_path=False).eval()
    images = torch.randn(1, 3, 111, 100)
    pooled, regions = backbone(images)
    assert regions.shape == (1, 6 * 6, 24)
    torch.testing.assert_close(pooled, backbone(images[:, :, :96, :96]).pooled)


@pytest.mark.parametrize(
    "options", [{"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}, {"pre_norm": True}]
)
def test_options_that_make_another_kind_of_network_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="change the forward of 'deit_tiny_patch16_224'; use timm/deit_tiny_patch16"):
        build_backbone(BackboneConfig(name="deit_tiny", options={**SMALL, **options}), drop_path=False)


def test_a_model_that_is_asked_for_by_its_name_in_timm_is_timm_s() -> None:
    assert type(BackboneConfig(name="timm/deit_tiny_patch16_224").architecture) is TimmArchitecture
