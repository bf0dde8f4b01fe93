"""The plain composition that esvit-bench compares with: the same loss, gradients and centres as ours."""

import pytest
import torch

from esvit.bench.variants import DirectStep, OurStep, Settings
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from pipeline.errors import UserError


def settings(backbone: BackboneConfig) -> Settings:
    head = HeadConfig(num_prototypes=32, hidden=16, bottleneck=8)
    return Settings(backbone, head, torch.device("cpu"), half=False)


def test_one_step_equals_ours() -> None:
    given = settings(BackboneConfig(name="swin_nano", embed_dim=16))
    ours, direct = OurStep(given), DirectStep(given)
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(2, 2, 3, 32, 32, generator=generator), torch.randn(2, 2, 3, 20, 12, generator=generator)]
    mine = ours._loss(ours._student(views), ours._teacher(views[:1]), 0.04)["loss"]
    plain = direct._loss(direct._student(views), direct._teacher(views[:1]), 0.04)
    torch.testing.assert_close(plain, mine, rtol=1e-5, atol=0)
    mine.backward()
    plain.backward()
    expected = dict(ours._student.named_parameters())
    for name, parameter in direct._student.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6)
    for name, center in (("view_center", ours._loss.view_center), ("region_center", ours._loss.region_center)):
        torch.testing.assert_close(direct._loss.get_buffer(name), center.center)


def test_it_is_of_swin_alone() -> None:
    with pytest.raises(UserError, match="leave 'direct' out of --variant"):
        DirectStep(settings(BackboneConfig(name="resnet50")))
