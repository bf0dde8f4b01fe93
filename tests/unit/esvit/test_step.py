"""One step: accumulation, mixup, half precision, the schedule of regions; and that the host never waits in it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from esvit.distributed import World
from esvit.guards import FiniteGuard
from esvit.losses import EsvitLoss, LossConfig
from esvit.mixup import Blend, Box
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from esvit.schedules import StepValues
from esvit.state import TrainState
from esvit.step import PHASES, StepSettings, train_step
from pipeline.errors import UserError

K = 12
CPU = torch.device("cpu")
VALUES = StepValues(lr=1e-3, weight_decay=0.04, momentum=0.9, teacher_temperature=0.04)
SETTINGS = StepSettings(OptimConfig(), "fp32", accumulation=1)


def make_state(fp16: bool = False) -> TrainState:
    torch.manual_seed(0)
    head = HeadConfig(num_prototypes=K, hidden=16, bottleneck=8)
    networks = StudentTeacher(ModelConfig(backbone=BackboneConfig(name="swin_nano"), head=head), with_regions=True)
    optimizer = build_optimizer(networks.student, OptimConfig())
    scaler = torch.amp.GradScaler("cpu", enabled=fp16, init_scale=16.0)
    return TrainState(networks, EsvitLoss(LossConfig(), K), optimizer, scaler, None, {})


def make_views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(v, 4, 3, size, size, generator=generator) for v, size in ((2, 32), (2, 16))]


def run(num_steps: int = 3, settings: StepSettings = SETTINGS, fp16: bool = False, **options: Any) -> Any:
    state, guard = make_state(fp16), FiniteGuard(CPU)
    values = options.pop("values", VALUES)
    for _ in range(num_steps):
        scalars = train_step(
            state, state.networks.student, make_views(), values, settings, epoch=1, guard=guard, **options
        )
        state.step += 1
    return state, scalars


def moves(state: TrainState) -> list[torch.Tensor]:
    """How far student and teacher have come, each as one vector."""
    networks, start = state.networks, make_state().networks.student
    return [
        torch.cat(
            [
                (now - then).detach().flatten()
                for now, then in zip(network.parameters(), start.parameters(), strict=True)
            ]
        )
        for network in (networks.student, networks.teacher)
    ]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_step_of_the_whole_batch(parts: int) -> None:
    whole, scalars = run()
    split, others = run(settings=StepSettings(OptimConfig(), "fp32", parts))
    for name in ("loss", "view", "region", "gradient_norm"):
        torch.testing.assert_close(others[name], scalars[name], rtol=1e-4, atol=1e-5)
    for part in ("networks", "loss"):
        ours, theirs = getattr(split, part).state_dict(), getattr(whole, part).state_dict()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=3e-4)  # a wrong scale would show as 3e-3


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError, match="choose a batch that is a multiple of 12"):
        StepSettings(OptimConfig(), "fp32", 3).check_batch(16, 4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_single(precision: Any) -> None:
    single, scalars = run()
    state, half = run(settings=StepSettings(OptimConfig(), precision, 1), fp16=precision == "fp16")
    torch.testing.assert_close(half["loss"], scalars["loss"], rtol=0.03, atol=0)
    torch.testing.assert_close(half["gradient_norm"], scalars["gradient_norm"], rtol=0.1, atol=0)
    for moved, expected in zip(moves(state), moves(single), strict=True):  # AdamW's first steps follow the signs
        assert F.cosine_similarity(moved, expected, dim=0) > 0.97
        assert float(moved.norm() / expected.norm()) == pytest.approx(1, rel=0.01)
    assert state.scaler.get_scale() == (16.0 if precision == "fp16" else 1.0)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_networks_run_in_half_precision_and_the_loss_does_not(precision: Any, dtype: torch.dtype) -> None:
    state, seen = make_state(fp16=precision == "fp16"), list[torch.dtype]()
    for network in (state.networks.student, state.networks.teacher):
        network.view_head.mlp[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    settings = StepSettings(OptimConfig(), precision, 1)
    scalars = train_step(state, state.networks.student, make_views(), VALUES, settings, epoch=1, guard=FiniteGuard(CPU))
    assert seen == [dtype, dtype] and scalars["loss"].dtype == torch.float32


def test_an_overflow_of_the_scaled_gradients_skips_the_step_and_lowers_the_scale() -> None:
    state, guard = make_state(fp16=True), FiniteGuard(CPU)
    before = {name: tensor.clone() for name, tensor in state.networks.student.state_dict().items()}
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 3e38})
    settings = StepSettings(OptimConfig(), "fp16", 1)
    train_step(state, state.networks.student, make_views(), VALUES, settings, epoch=1, guard=guard)
    assert all(torch.equal(before[n], t) for n, t in state.networks.student.state_dict().items())
    assert state.scaler.get_scale() == pytest.approx(1.5e38)
    assert not guard.failed


def test_a_clock_meets_every_phase_and_each_part_of_the_batch() -> None:
    seen = []

    @contextlib.contextmanager
    def clock(phase: str) -> Iterator[None]:
        seen.append(phase)
        yield
        seen.append("end")

    run(1, StepSettings(OptimConfig(), "fp32", 2, clock))
    assert seen[::2] == [*PHASES[:4], *PHASES[:4], *PHASES[4:]]
    assert set(seen[1::2]) == {"end"}  # no phase lies in another


def test_the_region_task_counts_by_its_share() -> None:
    for share in (0.0, 0.5, 1.0):
        _, scalars = run(1, values=VALUES._replace(region_share=share))
        expected = (1 - 0.5 * share) * scalars["view"] + 0.5 * share * scalars["region"]
        torch.testing.assert_close(scalars["loss"], expected)


def test_mixup_at_either_end_is_the_images_or_their_mirrors() -> None:
    plain, scalars = run(1)
    mixed, same = run(1, blend=Blend(1.0))
    _, mirrored = run(1, blend=Blend(0.0))
    torch.testing.assert_close(same["loss"], scalars["loss"])
    torch.testing.assert_close(mirrored["loss"], scalars["loss"])  # a batch in another order
    for name, center in plain.loss.state_dict().items():
        torch.testing.assert_close(mixed.loss.state_dict()[name], center)


@pytest.mark.parametrize("blend", [Blend(0.3), Blend(0.75, Box(0.0, 0.5, 0.5, 1.0))])
def test_a_blended_step_trains_on_blends_and_blended_targets(blend: Blend) -> None:
    state, scalars = run(1, blend=blend)
    fresh, views = make_state(), make_views()
    predictions = fresh.networks.student(blend(views))
    terms = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        objective = EsvitLoss(LossConfig(), K)
        terms.append(objective(predictions, fresh.networks.teacher([views[0][:, order]]), 0.04)["loss"])
    torch.testing.assert_close(scalars["loss"], (blend.weight * terms[0] + (1 - blend.weight) * terms[1]).detach())
    assert state.loss.view_center.center.abs().sum() > 0


class _NoReads(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: reading a tensor's value, or a shape that depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.__name__.partition(".")[0] not in ("_local_scalar_dense", "is_nonzero", "nonzero"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("blend", [None, Blend(0.5), Blend(0.75, Box(0.0, 0.5, 0.5, 1.0))])
def test_the_host_reads_nothing_from_the_device(blend: Blend | None) -> None:
    state, guard, views = make_state(), FiniteGuard(CPU), make_views()
    settings = StepSettings(OptimConfig(), "bf16", 2)
    with _NoReads():
        train_step(state, state.networks.student, views, VALUES, settings, epoch=0, guard=guard, blend=blend)
    with pytest.raises(AssertionError), _NoReads():
        guard.failed.item()


def test_a_step_that_is_not_finite_freezes_the_state_before_it() -> None:
    state, guard, views = make_state(), FiniteGuard(CPU), make_views()
    for step in range(4):
        if step == 2:
            views[1][0, 1, 0, 3, 3] = float("nan")
            kept = {name: tensor.clone() for name, tensor in state.networks.state_dict().items()}
            kept |= {name: tensor.clone() for name, tensor in state.loss.state_dict().items()}
            count = next(iter(state.optimizer.state.values()))["step"].clone()
        if step == 3:
            views = make_views()
        train_step(state, state.networks.student, views, VALUES, SETTINGS, epoch=1, guard=guard)
        state.step += 1
    after = state.networks.state_dict() | state.loss.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in kept.items())
    assert next(iter(state.optimizer.state.values()))["step"] == count
    assert guard.first_failure(World(0, 0, 1, CPU)) == 2


def test_a_gradient_that_is_not_finite_is_a_failure_though_the_loss_is() -> None:
    state, guard = make_state(), FiniteGuard(CPU)
    before = {name: tensor.clone() for name, tensor in state.networks.state_dict().items()}
    view_head: Any = state.networks.student.view_head
    view_head.mlp[0].bias.register_hook(lambda gradient: gradient + float("inf"))
    scalars = train_step(state, state.networks.student, make_views(), VALUES, SETTINGS, epoch=1, guard=guard)
    assert scalars["loss"].isfinite() and guard.failed
    assert all(torch.equal(before[name], tensor) for name, tensor in state.networks.state_dict().items())
