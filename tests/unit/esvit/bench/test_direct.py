"""The plain composition: its loss against sums written out by hand; one step of it against one of ours."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch import Tensor

from esvit.bench.direct_step import STUDENT_TEMPERATURE, DirectLoss
from esvit.bench.variants import DirectStep, OurStep, Settings
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from pipeline.errors import UserError

B, K, D = 3, 5, 4


class Outputs(NamedTuple):
    """Logits without a network behind them."""

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
        [torch.randn(B, K) for _ in num_tokens],
        [torch.randn(B, t, K) for t in num_tokens],
        [torch.randn(B, t, D) for t in num_tokens],
    )


def settings(backbone: BackboneConfig) -> Settings:
    head = HeadConfig(num_prototypes=32, hidden=16, bottleneck=8)
    return Settings(backbone, head, torch.device("cpu"), precision="fp32")


@pytest.mark.parametrize(("num_teacher", "num_student"), [(2, 2), (2, 5), (3, 4)])
def test_the_view_term_equals_the_sum_over_pairs(num_teacher: int, num_student: int) -> None:
    student, teacher = make_outputs([1] * num_student), make_outputs([1] * num_teacher)
    loss = DirectLoss(K)
    center = loss.view_center.copy_(torch.randn(K)).clone()
    probs = [logits.sub(center).div(0.07).softmax(-1) for logits in teacher.view_logits]
    pairs = [
        cross_entropy(probs[q][b], student.view_logits[v][b], STUDENT_TEMPERATURE)
        for q in range(num_teacher)
        for v in range(num_student)
        for b in range(B)
        if v != q
    ]
    assert len(pairs) == num_teacher * (num_student - 1) * B
    assert float(loss(student, teacher, 0.07)["view"]) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


@pytest.mark.parametrize("num_tokens", [[4, 4], [4, 4, 2, 3], [6, 2, 1]])
def test_the_region_term_equals_the_sum_over_matched_pairs(num_tokens: list[int]) -> None:
    student, teacher = make_outputs(num_tokens), make_outputs(num_tokens[:2])
    assert student.regions and teacher.regions and student.region_logits and teacher.region_logits
    probs = [logits.softmax(-1) for logits in teacher.region_logits]
    pairs = []
    for q in range(2):
        for v in range(len(num_tokens)):
            if v == q:
                continue
            rows = []
            for b in range(B):
                for i in range(num_tokens[v]):
                    region = student.regions[v][b, i]
                    cosines = [float(torch.cosine_similarity(region, z, dim=0)) for z in teacher.regions[q][b]]
                    target = probs[q][b, cosines.index(max(cosines))]
                    rows.append(cross_entropy(target, student.region_logits[v][b, i], STUDENT_TEMPERATURE))
            pairs.append(sum(rows) / len(rows))
    found = DirectLoss(K, region_weight=0.25)(student, teacher, 1.0)
    assert float(found["region"]) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    torch.testing.assert_close(found["loss"], 0.75 * found["view"] + 0.25 * found["region"])


@effort(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), temperature=st.floats(0.02, 1))
def test_the_view_term_is_at_least_the_entropy_of_its_targets(seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    student, teacher = make_outputs([1] * 4), make_outputs([1] * 2)
    probs = [logits.div(temperature).softmax(-1) for logits in teacher.view_logits]
    entropy = float(torch.stack([-torch.xlogy(p, p).sum(-1).mean() for p in probs]).mean())
    assert float(DirectLoss(K)(student, teacher, temperature)["view"]) >= entropy - 1e-5


def test_one_step_equals_ours() -> None:
    given = settings(BackboneConfig(name="swin_nano", embed_dim=16))
    ours, direct = OurStep(given), DirectStep(given)
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(2, 2, 3, 32, 32, generator=generator), torch.randn(2, 2, 3, 20, 12, generator=generator)]
    ours.train(views)
    direct.train(views)
    expected = dict(ours.student.named_parameters())
    for name, parameter in direct.student.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)
    expected = dict(ours.teacher.named_parameters())
    for name, parameter in direct.teacher.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
    for name in ("view_center", "region_center"):
        torch.testing.assert_close(direct.loss.get_buffer(name), ours.loss.get_buffer(f"{name}.center"))


def test_it_is_of_swin_alone() -> None:
    with pytest.raises(UserError, match="leave 'direct' out of --variant"):
        DirectStep(settings(BackboneConfig(name="resnet50")))
