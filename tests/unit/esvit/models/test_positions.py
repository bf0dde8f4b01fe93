"""Tables of positions for maps of another size, against the arithmetic of Swin's own loader."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from esvit.checkpoints.files import CheckpointError
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.positions import fitted
from esvit.models.student_teacher import ModelConfig, Network, StudentTeacher
from esvit.state import TrainState

HEAD = HeadConfig(num_prototypes=4, hidden=4, bottleneck=4)
NANO = BackboneConfig(name="swin_nano", embed_dim=8, absolute_positions=True)


def saved(backbone: BackboneConfig, *networks: str) -> dict[str, Any]:
    """A checkpoint of these networks, in which no parameter is that of a new one."""
    torch.manual_seed(1)
    network = Network(ModelConfig(backbone=backbone, head=HEAD), drop_path=False, with_regions=False)
    return dict.fromkeys(networks, network.state_dict())


def new_state(backbone: BackboneConfig) -> TrainState:
    torch.manual_seed(2)
    networks = StudentTeacher(ModelConfig(backbone=backbone, head=HEAD), with_regions=False)
    unused: Any = None
    return TrainState(networks=networks, loss=unused, optimizer=unused, scaler=unused, loader=None, config={})


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_a_swin_of_another_window_and_size_starts_from_resized_tables(network: str) -> None:
    before = saved(NANO, network)
    state = new_state(NANO.replace(window_size=7, image_size=56))
    resized = state.start_backbone_from(before)
    assert len(resized) == 5 and "absolute_pos_embed" in resized
    for one in (state.networks.student, state.networks.teacher):
        found = one.backbone.state_dict()
        table = before[network]["backbone.layers.0.blocks.1.attn.relative_position_bias_table"]
        square = table.permute(1, 0).view(1, 2, 7, 7)
        expected = F.interpolate(square, size=(13, 13), mode="bicubic").view(2, 169).permute(1, 0)
        torch.testing.assert_close(found["layers.0.blocks.1.attn.relative_position_bias_table"], expected)
        places = before[network]["backbone.absolute_pos_embed"].reshape(-1, 8, 8, 8).permute(0, 3, 1, 2)
        expected = F.interpolate(places, size=(14, 14), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
        torch.testing.assert_close(found["absolute_pos_embed"], expected)
        assert torch.equal(found["norm.weight"], before[network]["backbone.norm.weight"])
        mlp = "layers.1.blocks.0.mlp.fc1.weight"
        assert torch.equal(found[mlp], before[network][f"backbone.{mlp}"])


def test_of_the_same_size_nothing_is_touched() -> None:
    before = saved(NANO, "teacher", "student")
    state = new_state(NANO)
    view_head: Any = state.networks.student.view_head
    head = view_head.mlp[0].weight.clone()
    assert state.start_backbone_from(before) == []
    for name, tensor in state.networks.student.backbone.state_dict().items():
        assert torch.equal(tensor, before["teacher"][f"backbone.{name}"])
    assert torch.equal(view_head.mlp[0].weight, head)


def test_the_class_token_of_a_vit_keeps_its_place() -> None:
    table = torch.randn(1, 1 + 16, 3)
    found, names = fitted({"network.pos_embed": table}, {"network.pos_embed": torch.Size([1, 1 + 36, 3])})
    assert names == ["network.pos_embed"]
    assert torch.equal(found["network.pos_embed"][:, 0], table[:, 0])
    grid = F.interpolate(table[:, 1:].mT.reshape(1, 3, 4, 4), size=(6, 6), mode="bicubic")
    torch.testing.assert_close(found["network.pos_embed"][:, 1:], grid.flatten(2).mT)


@pytest.mark.parametrize(
    ("row", "before", "after"),
    [
        (
            {"name": "cvt_tiny", "widths": (8, 24, 48, 48), "depths": (1,) * 4, "relative_positions": True},
            {"window_size": 7},
            {"window_size": 3},
        ),
        ({"name": "vil_2262", "widths": (12, 12, 24, 24), "depths": (1,) * 4}, {"window_size": 7}, {"window_size": 3}),
        (
            {"name": "deit_tiny"},
            {"options": {"embed_dim": 24, "depth": 1, "num_heads": 3}},
            {"options": {"embed_dim": 24, "depth": 1, "num_heads": 3, "img_size": 96}},
        ),
    ],
    ids=["cvt", "vil", "deit"],
)
def test_other_families_start_from_resized_tables_too(
    row: dict[str, object], before: dict[str, object], after: dict[str, object]
) -> None:
    state = new_state(BackboneConfig(**row, **after))
    assert state.start_backbone_from(saved(BackboneConfig(**row, **before), "teacher"))
    with torch.no_grad():
        assert bool(state.networks.student.backbone(torch.randn(1, 3, 96, 96)).regions.isfinite().all())


@pytest.mark.parametrize("change", [{"num_heads": (1, 2)}, {"embed_dim": 16}, {"depths": (2, 1)}])
def test_another_network_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint's teacher's backbone does not fit this network"):
        new_state(NANO.replace(window_size=7)).start_backbone_from(saved(NANO.replace(**change), "teacher"))
