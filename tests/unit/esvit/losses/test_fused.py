"""The loss in tiles against the direct one: the same loss, gradients, centres and metrics, in less memory."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from esvit.bench.direct_step import DirectLoss
from esvit.bench.memory import peak_bytes
from esvit.losses import EsvitLoss, LossConfig
from esvit.models.student_teacher import Outputs
from support.predictions import make_outputs, tensors_with_gradient, without_regions

TEMPERATURE = 0.05
GLOBALS, LOCALS = [9, 9], [4, 4, 4]


def compute(objective: nn.Module, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
    """Scalars, centres after the step, and every gradient."""
    for center in objective.buffers():
        center.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.1)
    scalars = objective(student, teacher, TEMPERATURE)
    gradients = torch.autograd.grad(scalars["loss"], tensors_with_gradient(student))
    found = {name: value.detach() for name, value in scalars.items()}
    found |= {name.removesuffix(".center"): center for name, center in objective.state_dict().items()}
    return found | {f"gradient {i}": gradient for i, gradient in enumerate(gradients)}


def direct(num_prototypes: int, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
    """`compute` of the direct form, and the entropy of its targets."""
    found = compute(DirectLoss(num_prototypes), student, teacher)
    center = torch.randn(num_prototypes, generator=torch.Generator().manual_seed(5)) * 0.1
    mean = torch.cat([(logits - center).div(TEMPERATURE).softmax(-1) for logits in teacher.view_logits]).mean(dim=0)
    entropy = -torch.xlogy(mean, mean).sum() / math.log(num_prototypes)
    return {**found, "teacher_entropy": entropy.detach()}


def relative(found: Tensor, expected: Tensor) -> float:
    return 0.0 if torch.equal(found, expected) else float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("num_tokens", [GLOBALS, GLOBALS + LOCALS], ids=["globals", "globals and locals"])
@pytest.mark.parametrize("num_prototypes", [64, 1000, 65536])
def test_equals_the_direct_form(num_prototypes: int, num_tokens: list[int]) -> None:
    student = make_outputs(num_prototypes, num_tokens, batch=3, seed=0)
    teacher = make_outputs(num_prototypes, GLOBALS, batch=3, seed=1)
    expected = direct(num_prototypes, student, teacher)
    found = compute(EsvitLoss(LossConfig(tile_mib=2), num_prototypes), student, teacher)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert relative(found[name], value) < (1e-4 if "gradient" in name else 1e-5), name


@pytest.mark.parametrize("num_teachers", [1, 3])
def test_equals_the_direct_form_with_other_numbers_of_teacher_views(num_teachers: int) -> None:
    student = make_outputs(64, [6, 4, 2, 3], batch=2, seed=0)
    teacher = make_outputs(64, [6, 4, 2][:num_teachers], batch=2, seed=1)
    expected = direct(64, student, teacher)
    for name, value in compute(EsvitLoss(LossConfig(), 64), student, teacher).items():
        assert relative(value, expected[name]) < 1e-4, name


def test_tiles_of_one_row_equal_one_tile() -> None:
    # 1 MiB holds one row of this many prototypes.
    num_prototypes = 2**18
    student = make_outputs(num_prototypes, [2, 2], batch=2, seed=0, width=4)
    teacher = make_outputs(num_prototypes, [2, 2], batch=2, seed=1, width=4)
    whole = compute(EsvitLoss(LossConfig(tile_mib=64), num_prototypes), student, teacher)
    for name, value in compute(EsvitLoss(LossConfig(tile_mib=1), num_prototypes), student, teacher).items():
        assert relative(value, whole[name]) < 1e-4, name


def test_is_deterministic() -> None:
    student = make_outputs(1000, GLOBALS + LOCALS, batch=4, seed=0)
    teacher = make_outputs(1000, GLOBALS, batch=4, seed=1)
    first, second = (compute(EsvitLoss(LossConfig(tile_mib=1), 1000), student, teacher) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_view_only() -> None:
    student = without_regions(make_outputs(64, GLOBALS + LOCALS, batch=2, seed=0))
    teacher = without_regions(make_outputs(64, GLOBALS, batch=2, seed=1))
    found = EsvitLoss(LossConfig(region_weight=0), 64)(student, teacher, 0.04)
    assert set(found) == {"loss", "view", "teacher_entropy"}
    for name, value in DirectLoss(64)(student, teacher, 0.04).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_products_in_half_precision_keep_the_gradient(half: torch.dtype) -> None:
    student = make_outputs(1000, GLOBALS + LOCALS, batch=2, seed=0)
    teacher = make_outputs(1000, GLOBALS, batch=2, seed=1)
    exact = compute(EsvitLoss(LossConfig(), 1000), student, teacher)
    with torch.autocast("cpu", dtype=half):
        rounded = compute(EsvitLoss(LossConfig(), 1000), student, teacher)
    assert rounded["loss"].dtype == torch.float32
    for name, value in exact.items():
        assert relative(rounded[name], value) < 0.05, name


def test_no_gradient_where_none_is_wanted() -> None:
    student = make_outputs(64, GLOBALS, batch=2, seed=0)
    student.view_prototypes.weight_g.requires_grad_(False)
    teacher = make_outputs(64, GLOBALS, batch=2, seed=1)
    EsvitLoss(LossConfig(), 64)(student, teacher, 0.04)["loss"].backward()
    assert student.view_prototypes.weight_g.grad is None
    assert student.view_prototypes.weight_v.grad is not None
    assert all(tensor.grad is None for tensor in tensors_with_gradient(teacher))
    with torch.no_grad():
        assert not EsvitLoss(LossConfig(), 64)(student, teacher, 0.04)["loss"].requires_grad


def test_a_second_backward_is_refused() -> None:
    student, teacher = (make_outputs(64, GLOBALS, batch=2, seed=seed) for seed in (0, 1))
    loss = EsvitLoss(LossConfig(), 64)(student, teacher, 0.04)["loss"]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward per forward"):
        loss.backward()


def peak_of_a_step(new_loss: Callable[[int], nn.Module], batch: int) -> int:
    """Peak memory of loss and backward at the paper's sizes, in bytes; the gradients are left in place."""
    num_prototypes, num_tokens = 65536, [49] * 2 + [9] * 8
    student = make_outputs(num_prototypes, num_tokens, batch, seed=0, width=256)
    teacher = make_outputs(num_prototypes, num_tokens[:2], batch, seed=1, width=256)
    objective = new_loss(num_prototypes)
    return peak_bytes(lambda: objective(student, teacher, TEMPERATURE)["loss"].backward())


@pytest.mark.slow
def test_memory_is_a_third_of_the_direct_form_and_does_not_grow_with_the_batch() -> None:
    in_tiles = partial(EsvitLoss, LossConfig())
    fused, larger = peak_of_a_step(in_tiles, batch=4), peak_of_a_step(in_tiles, batch=8)
    assert fused < peak_of_a_step(DirectLoss, batch=4) / 3
    bottleneck_rows = 4 * (10 + 2 * 49 + 8 * 9) * 256 * 4  # of four more images
    assert larger - fused < 4 * bottleneck_rows
