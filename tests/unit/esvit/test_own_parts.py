"""A backbone, a head and a loss of one's own, by the path of their class; and who may name such a path."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from esvit.checkpoints import source
from esvit.evaluation import load_backbone
from esvit.losses import EsvitLoss, LossConfig, build_loss
from esvit.models import BackboneConfig, build_backbone
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.own_parts import OwnPartError
from pipeline.config import ConfigError, load

PARTS = """
import torch
from torch import nn
from esvit.losses import EsvitLoss
from esvit.models import Backbone, Features
from esvit.models.head import ProjectionHead


class Patches(Backbone):
    def __init__(self, width: int = 8, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.width, self.drop_path_rate = width, drop_path_rate
        self.embed = nn.Conv2d(3, width, 8, 8)

    @property
    def blocks(self):
        return []

    def forward(self, images):
        regions = self.embed(images).flatten(2).mT
        return Features(regions.mean(dim=1), regions)


class Half(Backbone):
    def forward(self, images):
        return None


class Head(ProjectionHead):
    def __init__(self, width, config):
        super().__init__(width, config)
        self.temperature = config.options["temperature"]


class Loss(EsvitLoss):
    def forward(self, *args, **kwargs):
        scalars = super().forward(*args, **kwargs)
        return {**scalars, "loss": self.config.options["factor"] * scalars["loss"]}


class Silent(nn.Module):
    def __init__(self, config, num_prototypes):
        super().__init__()

    def forward(self, *args, **kwargs):
        return {"loss": torch.zeros(())}


class Trained(nn.Linear):
    def __init__(self, config, num_prototypes):
        super().__init__(1, 1)


import_me = Loss
"""
HEAD = HeadConfig(num_prototypes=12, hidden=8, bottleneck=4)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of this test's own."""
    name = f"parts_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def outputs(model: ModelConfig) -> Any:
    networks = StudentTeacher(model, with_regions=True)
    views = [torch.randn(2, 3, 3, 32, 32), torch.randn(2, 3, 3, 16, 16)]
    return networks.student(views), networks.teacher(views[:1])


def test_own_backbone_head_and_loss_take_the_place_of_ours(parts: str) -> None:
    backbone = BackboneConfig(name=f"{parts}:Patches", options={"width": 6}, drop_path_rate=0.1)
    head = HEAD.replace(name=f"{parts}:Head", options={"temperature": 3})
    model = ModelConfig(backbone=backbone, head=head)
    networks = StudentTeacher(model, with_regions=True)
    view_head: Any = networks.student.view_head
    assert (networks.student.backbone.width, view_head.temperature) == (6, 3)
    assert networks.student.backbone.drop_path_rate == 0.1 and networks.teacher.backbone.drop_path_rate == 0
    ours, theirs = EsvitLoss(LossConfig(), 12), build_loss(LossConfig(name=f"{parts}:Loss", options={"factor": 2}), 12)
    torch.manual_seed(0)
    student, teacher = outputs(model)
    expected = ours(student, teacher, 0.04)["loss"]
    torch.testing.assert_close(theirs(student, teacher, 0.04)["loss"], 2 * expected)


def test_naming_a_class_imports_nothing_before_it_is_built(parts: str) -> None:
    config = BackboneConfig(name=f"{parts}:Patches")
    assert config.architecture is not None and parts not in sys.modules
    build_backbone(config, drop_path=False)
    assert parts in sys.modules


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nosuchmodule:Patches", "cannot import nosuchmodule:Patches: No module named 'nosuchmodule'; install it, or"),
        ("{parts}:Patch", "has no Patch; did you mean 'Patches'"),
        ("{parts}:torch", "must be a subclass of esvit.models.backbone.Backbone"),
        ("os:system", "os:system must be a subclass of esvit.models.backbone.Backbone"),
        ("{parts}:Half", "must define blocks, as every Backbone does"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(parts: str, path: str, sentence: str) -> None:
    with pytest.raises(OwnPartError, match=sentence):
        build_backbone(BackboneConfig(name=path.format(parts=parts)), drop_path=False)


def test_an_argument_that_a_class_does_not_take_is_named(parts: str) -> None:
    with pytest.raises(OwnPartError, match="Patches cannot be built: got an unexpected keyword argument 'depth'"):
        build_backbone(BackboneConfig(name=f"{parts}:Patches", options={"depth": 2}), drop_path=False)


def test_a_loss_that_does_not_report_is_refused(parts: str) -> None:
    with pytest.raises(OwnPartError, match="Silent returns no 'view'; it has loss"):
        build_loss(LossConfig(name=f"{parts}:Silent"), 12)()
    with pytest.raises(OwnPartError, match="Trained has parameters, but nothing trains them"):
        build_loss(LossConfig(name=f"{parts}:Trained"), 12)


@pytest.mark.parametrize(
    ("schema", "override", "sentence"),
    [
        (BackboneConfig, "name=swin_tny", "there is no 'swin_tny'; choose one of .*; did you mean 'swin_tiny'"),
        (BackboneConfig, "name=os.system", "there is no 'os.system'; choose one of .*, or package.module:Class"),
        (BackboneConfig, "name='a:b:c'", "there is no 'a:b:c'"),
        (HeadConfig, "name=projecton", "did you mean 'projection'"),
        (LossConfig, "name=esvti", "did you mean 'esvit'"),
    ],
)
def test_a_name_that_is_no_path_gets_near_matches(schema: Any, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(schema, [], [override])


def checkpoint(model: ModelConfig) -> dict[str, Any]:
    networks = StudentTeacher(model, with_regions=False)
    return {"config": {"model": model.model_dump(mode="json")}, "teacher": networks.teacher.state_dict(), "step": 0}


def test_a_checkpoint_does_not_choose_what_is_imported(parts: str) -> None:
    saved = checkpoint(ModelConfig(backbone=BackboneConfig(name=f"{parts}:Patches"), head=HEAD))
    del sys.modules[parts]
    for allowed in ((), ("other",), (parts[:-1],), (f"{parts}.deeper",)):
        with pytest.raises(OwnPartError, match=rf"names {parts}:Patches, .*; .* add --allow-import {parts}"):
            load_backbone(saved, "teacher", allowed)
        assert parts not in sys.modules
    assert load_backbone(saved, "teacher", (parts,)).width == 8


def test_a_checkpoint_that_names_a_command_runs_none(tmp_path: Path) -> None:
    saved = checkpoint(ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=HEAD))
    saved["config"]["model"]["backbone"] = {"name": "os:system", "options": {"command": f"touch {tmp_path}/run"}}
    with pytest.raises(OwnPartError, match="the checkpoint names os:system"):
        load_backbone(saved, "teacher")
    with pytest.raises(OwnPartError, match="os:system must be a subclass"):
        load_backbone(saved, "teacher", ("os",))
    saved["config"]["model"] = {"head": {**HEAD.model_dump(), "name": "os:system"}}
    with pytest.raises(OwnPartError, match="the checkpoint names os:system"):
        source.model_config(saved)
    assert not list(tmp_path.iterdir())
