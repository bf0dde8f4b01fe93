"""The objective: what its terms weigh, which centre they use, what moves it, and what has a gradient."""

import pytest
import torch

from esvit.losses import EsvitLoss, LossConfig
from esvit.losses.center import Center
from esvit.losses.pairs import best_match
from esvit.models.head import Prototypes
from esvit.models.student_teacher import Outputs
from support.predictions import make_outputs, tensors_with_gradient, without_regions

B, K = 3, 5


def outputs(num_tokens: list[int], seed: int) -> Outputs:
    return make_outputs(K, num_tokens, B, seed)


def test_nothing_but_rows_and_prototypes_of_the_student_has_a_gradient() -> None:
    student, teacher = outputs([4, 4, 2], seed=0), outputs([4, 4], seed=1)
    for regions in (student.regions, teacher.regions):
        assert regions is not None
        for view in regions:
            view.requires_grad_()
    EsvitLoss(LossConfig(), K)(student, teacher, 0.07)["loss"].backward()
    assert all(z.grad is None for z in [*(student.regions or []), *(teacher.regions or [])])
    assert all(x.grad is None for x in tensors_with_gradient(teacher))
    assert all(x.grad is not None for x in tensors_with_gradient(student))


def test_a_centre_has_no_gradient() -> None:
    center = Center(K, momentum=0.9)
    center.update(torch.ones(K, requires_grad=True), 1)
    assert not center.center.requires_grad


def test_match_ignores_length_and_autocast() -> None:
    candidates = torch.randn(2, 300, 64)
    regions = candidates.flip(1) * torch.rand(2, 300, 1).add(0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = best_match(regions, candidates)
    assert torch.equal(match, torch.arange(299, -1, -1).expand(2, -1))


def test_center_moves_towards_the_mean_of_all_rows() -> None:
    center = Center(K, momentum=0.9)
    center.center.fill_(1.0)
    rows = torch.randn(10, K)
    center.update(rows.sum(dim=0), 10)
    torch.testing.assert_close(center.center, 0.9 * torch.ones(K) + 0.1 * rows.mean(dim=0))


@pytest.mark.parametrize(("share", "weight"), [(1.0, 0.25), (0.4, 0.1), (0.0, 0.0)])
def test_loss_weighs_its_terms_and_moves_both_centres(share: float, weight: float) -> None:
    student, teacher = outputs([4, 4, 2], seed=0), outputs([4, 4], seed=1)
    objective = EsvitLoss(LossConfig(region_weight=0.25), K)
    scalars = objective(student, teacher, 0.07, share)
    assert set(scalars) == {"loss", "view", "region", "teacher_entropy"}
    expected = (1 - weight) * scalars["view"] + weight * scalars["region"]
    torch.testing.assert_close(scalars["loss"].detach(), expected)
    assert objective.region_center is not None and teacher.region_logits is not None
    for center, logits in [
        (objective.view_center, torch.cat(teacher.view_logits)),
        (objective.region_center, torch.cat(teacher.region_logits).flatten(0, 1)),
    ]:
        torch.testing.assert_close(center.center, 0.1 * logits.mean(dim=0).detach())
    assert set(objective.state_dict()) == {"view_center.center", "region_center.center"}


def test_the_loss_uses_the_centre_of_the_step_before() -> None:
    student, teacher = (without_regions(outputs([4, 4], seed)) for seed in (0, 1))
    objective = EsvitLoss(LossConfig(region_weight=0), K)
    first, second, third = (objective(student, teacher, 0.07)["loss"].detach() for _ in range(3))
    moved = EsvitLoss(LossConfig(region_weight=0), K)
    moved.view_center.center.copy_(0.1 * torch.cat(teacher.view_logits).mean(dim=0).detach())
    torch.testing.assert_close(moved(student, teacher, 0.07)["loss"].detach(), second)
    assert len({float(first), float(second), float(third)}) == 3


def test_view_only_loss_has_full_weight() -> None:
    student, teacher = without_regions(outputs([4, 4, 2], seed=0)), without_regions(outputs([4, 4], seed=1))
    scalars = EsvitLoss(LossConfig(region_weight=0), K)(student, teacher, 0.07)
    assert set(scalars) == {"loss", "view", "teacher_entropy"}
    assert scalars["loss"] == scalars["view"] and not scalars["view"].requires_grad


@pytest.mark.parametrize(("logits", "entropy"), [(torch.zeros(4, K), 1.0), (50 * torch.eye(K)[[2] * 4], 0.0)])
def test_teacher_entropy_tells_both_collapses(logits: torch.Tensor, entropy: float) -> None:
    prototypes = Prototypes(K, K)
    with torch.no_grad():
        prototypes.weight_v.copy_(torch.eye(K))  # rows are logits
    both = Outputs([logits, logits], prototypes, None, None, None)
    scalars = EsvitLoss(LossConfig(region_weight=0), K)(both, both, 0.07)
    assert float(scalars["teacher_entropy"]) == pytest.approx(entropy, abs=1e-6)


def test_half_precision_rows_give_fp32_losses() -> None:
    student, teacher = outputs([4, 4, 2], seed=0), outputs([4, 4], seed=1)
    exact = EsvitLoss(LossConfig(), K)(student, teacher, 0.07)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = EsvitLoss(LossConfig(), K)(student, teacher, 0.07)["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
