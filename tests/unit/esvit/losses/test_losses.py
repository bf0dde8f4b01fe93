"""Both losses against sums written out by hand, and the centre against its definition."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esvit.losses import EsvitLoss, LossConfig
from esvit.losses.center import Center
from esvit.losses.region import best_match, region_loss
from esvit.losses.view import view_loss

B, K, D = 3, 5, 4
DIRECT = LossConfig(fused=False)


class Outputs(NamedTuple):
    """Logits without a network behind them, as the direct form reads them."""

    view_logits: list[Tensor]
    region_logits: list[Tensor] | None
    regions: list[Tensor] | None


def cross_entropy(target: Tensor, logits: Tensor, temperature: float) -> float:
    """-sum_k p_k log softmax(s / temperature)_k of two vectors [K], number by number."""
    scaled = [float(x) / temperature for x in logits]
    log_sum = math.log(sum(math.exp(x) for x in scaled))
    return -sum(float(p) * (x - log_sum) for p, x in zip(target, scaled, strict=True))


def make_outputs(num_tokens: list[int]) -> Outputs:
    return Outputs(
        [torch.randn(B, K, requires_grad=True) for _ in num_tokens],
        [torch.randn(B, t, K, requires_grad=True) for t in num_tokens],
        [torch.randn(B, t, D, requires_grad=True) for t in num_tokens],
    )


@pytest.mark.parametrize(("num_teacher", "num_student"), [(2, 2), (2, 5), (3, 4)])
def test_view_loss_equals_the_sum_over_pairs(num_teacher: int, num_student: int) -> None:
    logits = [torch.randn(B, K) for _ in range(num_student)]
    probs = [torch.randn(B, K).softmax(-1) for _ in range(num_teacher)]
    pairs = [
        cross_entropy(probs[q][b], logits[v][b], 0.1)
        for q in range(num_teacher)
        for v in range(num_student)
        for b in range(B)
        if v != q
    ]
    assert len(pairs) == num_teacher * (num_student - 1) * B
    assert float(view_loss(logits, probs, 0.1)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


@pytest.mark.parametrize("num_tokens", [[4, 4], [4, 4, 2, 3], [6, 2, 1]])
@torch.no_grad()
def test_region_loss_equals_the_sum_over_matched_pairs(num_tokens: list[int]) -> None:
    student, teacher = make_outputs(num_tokens), make_outputs(num_tokens[:2])
    probs = [logits.detach().softmax(-1) for logits in teacher.region_logits]
    pairs = []
    for q in range(2):
        for v in range(len(num_tokens)):
            if v == q:
                continue
            rows = []
            for b in range(B):
                for i in range(num_tokens[v]):
                    cosines = [
                        float(torch.cosine_similarity(student.regions[v][b, i], z, dim=0))
                        for z in teacher.regions[q][b]
                    ]
                    match = cosines.index(max(cosines))
                    rows.append(cross_entropy(probs[q][b, match], student.region_logits[v][b, i], 0.1))
            pairs.append(sum(rows) / len(rows))
    loss = region_loss(student.region_logits, student.regions, probs, teacher.regions, 0.1)
    assert float(loss) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_no_gradient_through_the_match() -> None:
    student, teacher = make_outputs([4, 4, 2]), make_outputs([4, 4])
    loss = EsvitLoss(DIRECT, K)(student, teacher, 0.07)["loss"]
    loss.backward()
    assert all(z.grad is None for z in student.regions + teacher.regions)
    assert all(x.grad is None for x in teacher.view_logits + teacher.region_logits)
    assert all(x.grad is not None for x in student.view_logits + student.region_logits)


def test_a_centre_has_no_gradient() -> None:
    center = Center(K, momentum=0.9)
    center.update([torch.ones(2, K, requires_grad=True)])
    center.update_by_sum(torch.ones(K, requires_grad=True), 1)
    assert not center.center.requires_grad


def test_match_ignores_length_and_autocast() -> None:
    candidates = torch.randn(2, 300, 64)
    regions = candidates.flip(1) * torch.rand(2, 300, 1).add(0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = best_match(regions, candidates)
    assert torch.equal(match, torch.arange(299, -1, -1).expand(2, -1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), temperature=st.floats(0.02, 1))
def test_view_loss_is_at_least_the_entropy_of_its_targets(seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    probs = [torch.randn(B, K).div(temperature).softmax(-1) for _ in range(2)]
    entropy = float(torch.stack([-torch.xlogy(p, p).sum(-1).mean() for p in probs]).mean())
    assert float(view_loss([torch.randn(B, K) for _ in range(4)], probs, 0.1)) >= entropy - 1e-5


def test_sharpen_is_centred_softmax_in_fp32() -> None:
    center = Center(K, momentum=0.9)
    center.center.copy_(torch.arange(K))
    logits = torch.randn(2, 3, K)
    expected = torch.softmax((logits - torch.arange(K)) / 0.04, dim=-1)
    torch.testing.assert_close(center.sharpen(logits, 0.04), expected)
    assert center.sharpen(logits.bfloat16(), 0.04).dtype == torch.float32


def test_center_moves_towards_the_mean_of_all_rows() -> None:
    center = Center(K, momentum=0.9)
    center.center.fill_(1.0)
    first, second = torch.randn(2, 3, K), torch.randn(4, K)
    center.update([first, second])
    mean = torch.cat([first.flatten(0, 1), second]).mean(dim=0)
    torch.testing.assert_close(center.center, 0.9 * torch.ones(K) + 0.1 * mean)


def test_a_centre_adds_up_in_fp32() -> None:
    center = Center(K, momentum=0.0)
    center.update([torch.ones(1001, K, dtype=torch.bfloat16)])  # a number that bfloat16 has not
    torch.testing.assert_close(center.center, torch.ones(K))


def test_loss_weighs_its_terms_and_moves_both_centres() -> None:
    student, teacher = make_outputs([4, 4, 2]), make_outputs([4, 4])
    objective = EsvitLoss(LossConfig(fused=False, region_weight=0.25), K)
    scalars = objective(student, teacher, 0.07)
    assert set(scalars) == {"loss", "view", "region", "teacher_entropy"}
    torch.testing.assert_close(scalars["loss"].detach(), 0.75 * scalars["view"] + 0.25 * scalars["region"])
    for center, logits in [
        (objective.view_center, torch.cat(teacher.view_logits)),
        (objective.region_center, torch.cat(teacher.region_logits).flatten(0, 1)),
    ]:
        torch.testing.assert_close(center.center, 0.1 * logits.mean(dim=0))
    assert set(objective.state_dict()) == {"view_center.center", "region_center.center"}


def test_the_loss_uses_the_centre_of_the_step_before() -> None:
    student, teacher = make_outputs([4, 4]), make_outputs([4, 4])
    objective = EsvitLoss(LossConfig(fused=False, region_weight=0), K)
    probs = [logits.detach().div(0.07).softmax(-1) for logits in teacher.view_logits]
    torch.testing.assert_close(objective(student, teacher, 0.07)["loss"], view_loss(student.view_logits, probs, 0.1))


def test_view_only_loss_has_full_weight() -> None:
    student, teacher = make_outputs([4, 4, 2]), make_outputs([4, 4])
    student, teacher = (outputs._replace(region_logits=None, regions=None) for outputs in (student, teacher))
    scalars = EsvitLoss(LossConfig(fused=False, region_weight=0), K)(student, teacher, 0.07)
    assert set(scalars) == {"loss", "view", "teacher_entropy"}
    assert scalars["loss"] == scalars["view"] and not scalars["view"].requires_grad


@pytest.mark.parametrize(("logits", "entropy"), [(torch.zeros(4, K), 1.0), (50 * torch.eye(K)[[2] * 4], 0.0)])
def test_teacher_entropy_tells_both_collapses(logits: Tensor, entropy: float) -> None:
    outputs = Outputs([logits, logits], None, None)
    scalars = EsvitLoss(LossConfig(fused=False, region_weight=0), K)(outputs, outputs, 0.07)
    assert float(scalars["teacher_entropy"]) == pytest.approx(entropy, abs=1e-6)


def test_half_precision_logits_give_fp32_losses() -> None:
    student, teacher = make_outputs([4, 4, 2]), make_outputs([4, 4])
    exact = EsvitLoss(DIRECT, K)(student, teacher, 0.07)["loss"]
    half = [Outputs(*([x.bfloat16() for x in field] for field in outputs)) for outputs in (student, teacher)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = EsvitLoss(DIRECT, K)(half[0], half[1], 0.07)["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
