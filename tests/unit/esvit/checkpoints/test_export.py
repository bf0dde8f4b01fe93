"""What is exported is what stock timm opens, with our outputs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from esvit.checkpoints.export import ExportError, export
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network
from pipeline.store import Store


def _saved(backbone: BackboneConfig) -> tuple[Network, dict[str, Any]]:
    torch.manual_seed(0)
    model = ModelConfig(backbone=backbone, head=HeadConfig(num_prototypes=8, hidden=8, bottleneck=4))
    network = Network(model, drop_path=False, with_regions=True).eval()
    config = {"model": model.model_dump(mode="json")}
    return network, {"teacher": network.state_dict(), "step": 12, "config": config}


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        (BackboneConfig(name="swin_nano"), 32),
        (BackboneConfig(name="swin_nano", window_size=7, image_size=56), 56),
        (BackboneConfig(name="swin_nano", window_size=14, image_size=56), 56),  # the second stage has windows of 7
        (BackboneConfig(name="swin_nano", window_size=(4, 2), mlp_ratio=3.0), 32),
    ],
)
def test_timm_opens_it_and_gives_our_features(tmp_path: Path, backbone: BackboneConfig, size: int) -> None:
    network, saved = _saved(backbone)
    assert export(saved, "teacher", Store(tmp_path)) == ["model.safetensors", "config.json"]
    images = torch.randn(1, 3, size, size)
    exact = {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6)}
    for options, tolerance in (({}, 2e-2), (exact, 1e-5)):
        opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **options).eval()
        with torch.no_grad():
            expected = network.backbone(images).pooled
            torch.testing.assert_close(opened(images), expected, rtol=tolerance, atol=tolerance)
    assert opened.num_classes == 0 and opened.num_features == network.backbone.width
    assert json.loads((tmp_path / "config.json").read_text())["esvit"]["step"] == 12


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (BackboneConfig(name="swin_nano", absolute_positions=True), "timm has no Swin with absolute_positions"),
        (
            BackboneConfig(name="cvt_tiny", widths=(8, 24, 48, 96), depths=(1, 1, 1, 1)),
            "timm has no counterpart of cvt_tiny; only Swin and timm's own",
        ),
    ],
)
def test_what_timm_cannot_build_is_refused(tmp_path: Path, backbone: BackboneConfig, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(_saved(backbone)[1], "teacher", Store(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "backbone",
    [
        BackboneConfig(name="deit_tiny", options={"embed_dim": 24, "depth": 2, "num_heads": 3}),
        BackboneConfig(name="resnet50", options={"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}),
    ],
    ids=lambda backbone: backbone.name,
)
def test_timm_s_own_networks_come_back_as_they_are(tmp_path: Path, backbone: BackboneConfig) -> None:
    network, saved = _saved(backbone)
    export(saved, "teacher", Store(tmp_path))
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(opened(images), network.backbone(images).pooled)
