"""The measure of agreement itself, on differences that are known."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.augment import CropPlan, MultiCrop, MultiCropConfig
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD
from pipeline.augment.parity import Parity
from pipeline.augment.plan import ViewGroup

GROUPS = (ViewGroup(size=8, count=2, area=(0.4, 1)), ViewGroup(size=4, count=1, area=(0.1, 0.4)))


def plan_where(**changes: object) -> CropPlan:
    """Three views of two samples; nothing but the crop unless `changes` say so."""
    ids, sides = np.arange(2), np.full(2, 16)
    plan = MultiCrop(MultiCropConfig(views=GROUPS), seed=0)(0, ids, sides, sides)
    nothing = {name: np.zeros((3, 2), bool) for name in ("flip", "coloured", "solarize")}
    unchanged = {**nothing, "sigma": np.zeros((3, 2)), "matrix": np.broadcast_to(np.eye(3), (3, 2, 3, 3))}
    return dataclasses.replace(plan, **{**unchanged, **changes})  # type: ignore[arg-type]


def views_off_by(levels: np.ndarray) -> list[torch.Tensor]:
    """Constant views [V, B, 3, H, W], off a gray of 100 by so many 255ths; levels are [3, 2]."""
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in (IMAGENET_MEAN, IMAGENET_STD))
    off = ((100 + torch.from_numpy(levels).float()[..., None, None, None]) / 255 - mean) / std
    return [off[:2].expand(2, 2, 3, 8, 8), off[2:].expand(1, 2, 3, 4, 4)]


def test_differences_are_reported_in_255ths_view_by_view() -> None:
    parity, levels = Parity(), np.array([[0.0, 1.0], [2.0, -3.0], [8.0, 0.0]])
    parity.add(views_off_by(np.zeros((3, 2))), views_off_by(levels), plan_where())
    np.testing.assert_allclose(parity.view_means(), np.abs(levels), atol=1e-4)
    summary = parity.summary()
    assert summary["mean"] == pytest.approx(14 / 6, abs=1e-4)
    assert summary["mean_by_view"] == [0.5, 2.5, 4.0]
    assert summary["worst_view"] == pytest.approx(8, abs=1e-4)
    assert summary["share_above_6"] == pytest.approx(1 / 6)
    assert summary["mean_by_operation"] == pytest.approx({"crop and resize": 14 / 6, "normalise": 0}, abs=1e-4)
    assert summary["share_above_6_by_operation"] == pytest.approx({"crop and resize": 1 / 6})


def test_an_operation_is_charged_where_it_is_alone() -> None:
    parity, levels = Parity(), np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    matrix = np.broadcast_to(np.eye(3), (3, 2, 3, 3)).copy()
    matrix[0, 1] = 1 / 3
    plan = plan_where(
        matrix=matrix,
        flip=np.array([[True, False], [True, False], [True, False]]),
        coloured=np.array([[True, True], [False, False], [False, False]]),
        sigma=np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
        solarize=np.array([[False, False], [False, True], [False, False]]),
    )
    for _ in range(2):
        parity.add(views_off_by(np.zeros((3, 2))), views_off_by(levels), plan)
    assert parity.view_means().shape == (3, 4)
    # The view with jitter and blur is charged to neither.
    assert parity.summary()["mean_by_operation"] == pytest.approx(
        {"flip": 16, "crop and resize": 32, "jitter": 1, "blur": 4, "solarize": 8, "normalise": 0}, abs=1e-3
    )


def test_what_is_not_a_whole_pixel_is_charged_to_normalising() -> None:
    parity = Parity()
    parity.add(views_off_by(np.zeros((3, 2))), views_off_by(np.full((3, 2), 0.25)), plan_where())
    assert parity.summary()["mean_by_operation"]["normalise"] == pytest.approx(0.25, abs=1e-4)  # type: ignore[index]


def test_views_of_any_output_type_are_compared() -> None:
    parity = Parity()
    as_pixels = [
        torch.full((2, 2, 3, 8, 8), 101, dtype=torch.uint8),
        torch.full((1, 2, 3, 4, 4), 99, dtype=torch.uint8),
    ]
    parity.add(views_off_by(np.zeros((3, 2))), as_pixels, plan_where())
    np.testing.assert_allclose(parity.view_means(), 1, atol=1e-4)
