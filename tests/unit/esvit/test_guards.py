"""What counts as collapse, and which settings draw a word of caution."""

import pytest
import torch
from torch import nn

from esvit.distributed import World
from esvit.guards import CollapseDetector, CollapseError, FeatureSpread, FiniteGuard, GuardConfig, cautions
from esvit.losses.center import Center
from esvit.models.backbone import Features

HEALTHY = {"view": 2.0, "teacher_entropy": 0.5, "feature_std": 0.3, "center_drift": 0.1}
SICK = [
    ({"view": 4.159}, "uniform"),
    ({"teacher_entropy": 0.01}, "few prototypes"),
    ({"feature_std": 0.001}, "same features"),
    ({"center_drift": 3.0}, "does not settle"),
]


@pytest.mark.parametrize(("change", "word"), SICK)
def test_a_sign_counts_once_it_lasts(change: dict[str, float], word: str) -> None:
    detector = CollapseDetector(GuardConfig(patience=3), num_prototypes=64)
    seen = [detector.observe({**HEALTHY, **change}) for _ in range(2)]
    seen.append(detector.observe(HEALTHY))
    seen += [detector.observe({**HEALTHY, **change}) for _ in range(3)]
    assert seen[:5] == [[]] * 5
    assert len(seen[5]) == 1 and word in seen[5][0]


def test_a_run_that_is_to_stop_stops_with_one_sentence() -> None:
    detector = CollapseDetector(GuardConfig(patience=1, on_collapse="stop"), num_prototypes=64)
    assert detector.observe(HEALTHY) == []
    with pytest.raises(CollapseError, match="has collapsed: few prototypes"):
        detector.observe({**HEALTHY, "teacher_entropy": 0.0})


def test_drift_is_the_move_since_the_last_look_in_temperatures() -> None:
    detector, center = CollapseDetector(GuardConfig(), 4), Center(4, momentum=0.0)
    assert float(detector.center_drift(center, 0.04)) == 0
    center.update(torch.full((4,), 0.2), 2)
    assert float(detector.center_drift(center, 0.04)) == pytest.approx(2.5)
    assert float(detector.center_drift(center, 0.04)) == 0


class AsTheyAre(nn.Module):
    """Its features are its input."""

    def forward(self, rows: torch.Tensor) -> Features:
        return Features(rows, rows)


@pytest.mark.parametrize(("rows", "expected"), [(torch.ones(5, 8), 0.0), (torch.eye(8), (7 / 8) ** 0.5)])
def test_feature_spread_is_zero_for_equal_images_and_near_one_for_different_ones(
    rows: torch.Tensor, expected: float
) -> None:
    backbone = AsTheyAre()
    with FeatureSpread(backbone) as spread:
        backbone(rows)
        backbone(3 * rows)
    assert float(spread.mean()) == pytest.approx(expected, abs=1e-3)
    backbone(torch.full_like(rows, float("nan")))
    assert float(spread.mean()) == pytest.approx(expected, abs=1e-3)  # no longer watched


def test_the_first_failure_is_remembered() -> None:
    guard, alone = FiniteGuard(torch.device("cpu")), World(0, 0, 1, torch.device("cpu"))
    guard.observe(4, torch.tensor(1.0))
    assert guard.first_failure(alone) is None and not guard.failed
    for step, value in ((5, float("inf")), (6, float("nan")), (7, 1.0)):
        guard.observe(step, torch.tensor(value))
    assert guard.first_failure(alone) == 5 and guard.failed


@pytest.mark.parametrize(
    ("peak_lr", "batch", "prototypes", "samples", "words"),
    [
        (2e-3, 1024, 65536, 1_281_167, []),
        (3e-3, 64, 64, 1437, []),
        (6e-3, 1024, 65536, 1_281_167, ["learning rate"]),
        (3e-3, 16, 64, 1437, ["learning rate"]),
        (1e-4, 64, 65536, 10_000, ["prototypes"]),
        (1e-4, 64, 1438, 1437, ["prototypes"]),
    ],
)
def test_cautions(peak_lr: float, batch: int, prototypes: int, samples: int, words: list[str]) -> None:
    found = cautions(peak_lr, batch, prototypes, samples)
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_batch_norms_are_synchronised_on_gpus_in_student_and_teacher() -> None:
    pair = nn.ModuleDict({"student": nn.Sequential(nn.BatchNorm1d(3)), "teacher": nn.Sequential(nn.BatchNorm1d(3))})
    World(0, 0, 2, torch.device("cpu")).synchronise_batch_norms(pair)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in pair.modules())
    World(0, 0, 2, torch.device("cuda", 0)).synchronise_batch_norms(pair)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in pair.modules()) == 2
