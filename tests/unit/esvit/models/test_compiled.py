"""A compiled backbone computes what the one it is made of computes, and keeps its names."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from esvit.guards import FeatureSpread
from esvit.models import Backbone, BackboneConfig, build_backbone
from esvit.models.compiled import compile_backbone
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from pipeline.errors import UserError

# Of torch, about its own tracing.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

# A block without and one with a shift; drop path in the second.
SMALL = BackboneConfig(name="swin_nano", embed_dim=8, depths=(2,), num_heads=(2,), drop_path_rate=0.3)


def step(backbone: Backbone, sides: tuple[int, ...] = (32, 12)) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a forward of images of each size."""
    backbone.zero_grad()
    torch.manual_seed(3)  # of drop path
    features = [backbone(torch.linspace(-1, 1, 4 * 3 * side**2).sin().view(4, 3, side, side)) for side in sides]
    loss = torch.stack([one.pooled.square().sum() + one.regions.sin().sum() for one in features]).sum()
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in backbone.parameters() if parameter.grad is not None]


def pair(config: BackboneConfig, backend: str) -> tuple[Backbone, Backbone]:
    """A backbone as it is, and the same compiled."""
    eager, compiled = (build_backbone(config, drop_path=True) for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    compile_backbone(compiled, backend)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    return eager, compiled


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch.compiler.reset()


@pytest.mark.acceptance
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_traced_is_the_network(recompute: bool) -> None:
    """Without the code generator, which takes long: two sizes, drop path, the mask, and without gradients."""
    eager, compiled = pair(SMALL.replace(recompute=recompute), "aot_eager")
    torch.testing.assert_close(step(compiled), step(eager))
    images, found = torch.randn(2, 3, 32, 32), []
    with torch.no_grad(), FeatureSpread(compiled) as spread:
        for backbone in (compiled, eager):
            torch.manual_seed(3)
            found.append(backbone(images))
    torch.testing.assert_close(*found)
    assert 0 < float(spread.mean()) <= 1  # hooks see the compiled forward


@pytest.mark.slow
@pytest.mark.acceptance
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_the_generated_code_computes_the_same() -> None:
    eager, compiled = pair(SMALL, "inductor")
    for _ in range(2):
        torch.testing.assert_close(step(compiled), step(eager), rtol=1e-4, atol=1e-4)


def test_without_a_compiler_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"model\.compile needs the C\+\+ compiler 'no-such-compiler'"):
        StudentTeacher(ModelConfig(backbone=SMALL, compile=True), with_regions=False)


def test_the_option_compiles_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("esvit.models.student_teacher.compile_backbone", compiled.append)
    networks = StudentTeacher(ModelConfig(backbone=SMALL, compile=True), with_regions=False)
    assert compiled == [networks.student.backbone, networks.teacher.backbone]
