"""The published Swins at full size, at every size of crop, against a plain composition and against timm."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

from esvit.bench.direct import DirectNetwork
from esvit.models import BackboneConfig, build_backbone
from esvit.models.head import HeadConfig
from esvit.models.swin import SwinArchitecture

pytestmark = [pytest.mark.slow, pytest.mark.acceptance]


@pytest.mark.parametrize("window", [7, 14])
@pytest.mark.parametrize("name", ["swin_tiny", "swin_small", "swin_base"])
@torch.no_grad()
def test_the_published_networks_compute_what_the_paper_says(name: str, window: int) -> None:
    torch.manual_seed(0)
    config = BackboneConfig(name=name, window_size=window)
    architecture = config.architecture
    assert isinstance(architecture, SwinArchitecture)
    ours = build_backbone(config, drop_path=False).eval()
    for key, parameter in ours.named_parameters():
        if key.endswith(("bias", "relative_position_bias_table")):  # of a new network 0, and so without effect
            nn.init.normal_(parameter, std=0.2)
    plain = DirectNetwork(architecture, HeadConfig(num_prototypes=4), drop_path=False).backbone.eval()
    plain.load_state_dict(ours.state_dict())
    for size in (64, 96, 128, 224):
        images = torch.randn(1, 3, size, size)
        torch.testing.assert_close(ours(images).regions, plain(images), rtol=1e-4, atol=1e-4)
    stock = timm.models.SwinTransformer(
        window_size=window,
        embed_dim=architecture.embed_dim,
        depths=architecture.depths,
        num_heads=architecture.num_heads,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    stock.load_state_dict(ours.state_dict())
    assert torch.equal(ours(images).regions, stock.forward_features(images).flatten(1, 2))
