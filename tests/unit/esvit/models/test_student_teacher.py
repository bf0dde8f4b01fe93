from typing import Any

import pytest
import torch

from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, Network, StudentTeacher

NANO = ModelConfig(
    backbone=BackboneConfig(name="swin_nano"), head=HeadConfig(num_prototypes=10, hidden=16, bottleneck=8)
)
BATCH = 3


def make_views(*groups: tuple[int, int, int]) -> list[torch.Tensor]:
    return [torch.randn(num_views, BATCH, 3, height, width) for num_views, height, width in groups]


def test_one_output_per_view_in_order() -> None:
    network = Network(NANO, drop_path=False, with_regions=True)
    views = make_views((2, 32, 32), (3, 16, 24))
    outputs = network(views)
    assert [tuple(x.shape) for x in outputs.view_logits] == [(BATCH, 10)] * 5
    assert [tuple(x.shape) for x in outputs.regions] == [(BATCH, 16, 64)] * 2 + [(BATCH, 6, 64)] * 3
    assert [tuple(x.shape) for x in outputs.region_logits] == [(BATCH, 16, 10)] * 2 + [(BATCH, 6, 10)] * 3
    view = [view for group in views for view in group][3]
    pooled, regions = network.backbone(view)
    torch.testing.assert_close(outputs.view_logits[3], network.view_head(pooled))
    torch.testing.assert_close(outputs.regions[3], regions)
    assert network.region_head is not None
    torch.testing.assert_close(outputs.region_logits[3], network.region_head(regions))


def test_batch_norm_sees_all_views() -> None:
    config = NANO.replace(head=NANO.head.replace(batch_norm=True))
    network = Network(config, drop_path=False, with_regions=True)
    network(make_views((2, 32, 32), (2, 16, 16)))
    trained: list[Any] = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert [int(m.num_batches_tracked) for m in trained] == [1, 1, 1, 1]


def test_view_only_network_has_no_regions() -> None:
    network = Network(NANO, drop_path=False, with_regions=False)
    outputs = network(make_views((2, 32, 32)))
    assert outputs.region_logits is None and outputs.regions is None
    assert not any("region" in name for name in network.state_dict())


@pytest.mark.parametrize("with_regions", [False, True])
def test_every_parameter_gets_a_gradient(with_regions: bool) -> None:
    network = Network(NANO, drop_path=True, with_regions=with_regions)
    outputs = network(make_views((2, 32, 32), (1, 16, 16)))
    torch.stack([x.square().sum() for x in outputs.view_logits + (outputs.region_logits or [])]).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_teacher_starts_as_a_copy_without_gradient() -> None:
    pair = StudentTeacher(NANO, with_regions=True)
    for (name, student), teacher in zip(pair.student.named_parameters(), pair.teacher.parameters(), strict=True):
        assert torch.equal(student, teacher), name
        assert student.data_ptr() != teacher.data_ptr() and not teacher.requires_grad


def test_only_the_student_drops_paths() -> None:
    backbone = NANO.backbone.replace(drop_path_rate=0.5)
    pair, views = StudentTeacher(NANO.replace(backbone=backbone), with_regions=False), make_views((1, 32, 32))
    first, second = (network(views).view_rows[0] for network in (pair.teacher, pair.teacher))
    assert torch.equal(first, second)
    first, second = (network(views).view_rows[0] for network in (pair.student, pair.student))
    assert not torch.equal(first, second)


def test_teacher_is_the_moving_average_of_parameters_not_buffers() -> None:
    pair = StudentTeacher(NANO.replace(head=NANO.head.replace(batch_norm=True)), with_regions=False)
    before = [p.clone() for p in pair.teacher.parameters()]
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    pair.student(make_views((2, 32, 32)))  # moves the student's running statistics
    pair.update_teacher(0.9)
    for old, student, teacher in zip(before, pair.student.parameters(), pair.teacher.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student)
    assert all(int(b) == 0 for n, b in pair.teacher.named_buffers() if n.endswith("num_batches_tracked"))
    assert pair.teacher.training
    assert not any(parameter.requires_grad or parameter.grad_fn for parameter in pair.teacher.parameters())


def test_momentum_one_keeps_the_teacher_exactly() -> None:
    pair = StudentTeacher(NANO, with_regions=False)
    before = [p.clone() for p in pair.teacher.parameters()]
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.mul_(2)
    pair.update_teacher(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.teacher.parameters(), strict=True))
