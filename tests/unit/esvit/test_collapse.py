"""Real collapses of a small network, and that the guard tells them from a healthy run of the same length."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from esvit.guards import CollapseDetector, FiniteGuard, GuardConfig
from esvit.losses import EsvitLoss, LossConfig
from esvit.models import BackboneConfig
from esvit.models.head import HeadConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from esvit.schedules import StepValues
from esvit.state import TrainState
from esvit.step import StepSettings, train_step

K, BATCH, CPU = 64, 8, torch.device("cpu")
NUM_STEPS, LOG_EVERY = 60, 3
BACKBONE = BackboneConfig(name="swin_nano", embed_dim=16, depths=(2,), num_heads=(2,), image_size=32)


def digits() -> Tensor:
    """Handwritten digits [1797, 1, 40, 40]."""
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16 - 0.3
    return F.interpolate(images, size=40, mode="bilinear")


def views(images: Tensor, step: int) -> list[Tensor]:
    """Two large and two small windows of each of a batch of images."""
    generator = torch.Generator().manual_seed(step)
    chosen = images[torch.randint(len(images), (BATCH,), generator=generator)]
    groups = []
    for window, side in ((32, 32), (24, 16)):
        crops: list[Tensor] = []
        for _ in range(2 * BATCH):
            top, left = torch.randint(40 - window + 1, (2,), generator=generator).tolist()
            crops.append(chosen[len(crops) % BATCH, :, top : top + window, left : left + window])
        group = F.interpolate(torch.stack(crops), size=side, mode="bilinear")
        groups.append(group.expand(-1, 3, -1, -1).unflatten(0, (2, BATCH)))
    return groups


def run(*, batch_norm: bool, temperature: float = 0.04, center_momentum: float = 0.9) -> list[str]:
    """The signs of collapse at the end of a short run."""
    torch.manual_seed(0)
    head = HeadConfig(num_prototypes=K, hidden=128, bottleneck=32, batch_norm=batch_norm)
    networks = StudentTeacher(ModelConfig(backbone=BACKBONE, head=head), with_regions=False)
    loss = EsvitLoss(LossConfig(center_momentum=center_momentum, region_weight=0.0), K)
    optimizer = build_optimizer(networks.student, OptimConfig())
    state = TrainState(networks, loss, optimizer, torch.amp.GradScaler("cpu", enabled=False), None, {})
    guard, detector, images = FiniteGuard(CPU), CollapseDetector(GuardConfig(), K), digits()
    values = StepValues(lr=3e-3, weight_decay=0.04, momentum=0.98, teacher_temperature=temperature)
    signs: list[str] = []
    for step in range(1, NUM_STEPS + 1):
        settings = StepSettings(OptimConfig(), "fp32", accumulation=1)
        scalars = train_step(state, networks.student, views(images, step), values, settings, epoch=1, guard=guard)
        state.step += 1
        if step % LOG_EVERY == 0:
            scalars["center_drift"] = detector.center_drift(loss, temperature)
            means = {name: float(value) for name, value in scalars.items()}
            signs = detector.observe(means)
    return signs


@pytest.mark.acceptance
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_healthy_run_shows_no_sign(batch_norm: bool) -> None:
    assert run(batch_norm=batch_norm) == []


@pytest.mark.acceptance
def test_without_centring_few_prototypes_take_every_image() -> None:
    """A centre that all but never moves, and no batch norm to keep the images apart."""
    (sign,) = run(batch_norm=False, center_momentum=1 - 1e-9)
    assert "few prototypes take every image" in sign


@pytest.mark.acceptance
def test_without_sharpening_the_assignments_are_uniform() -> None:
    (sign,) = run(batch_norm=True, temperature=1.0)
    assert "the teacher's assignments are uniform" in sign
