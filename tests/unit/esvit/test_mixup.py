"""Blends: what is drawn for a step, and what becomes of the pixels."""

import numpy as np
import pytest
import torch
from timm.data import Mixup

from esvit.mixup import Blend, Box, MixupConfig

BOTH = MixupConfig(alpha=0.8, cutmix_alpha=1.0, probability=0.5)


def drawn(config: MixupConfig, seed: int = 0, num_steps: int = 400) -> list[Blend]:
    return [blend for step in range(num_steps) if (blend := config.blend(seed, step)) is not None]


@pytest.mark.parametrize("config", [MixupConfig(alpha=0.8), MixupConfig(cutmix_alpha=1.0), BOTH])
def test_a_blend_depends_on_seed_and_step_alone(config: MixupConfig) -> None:
    assert drawn(config) == drawn(config) != drawn(config, seed=1)
    assert all(0 <= blend.weight <= 1 for blend in drawn(config))


def test_how_often_and_which() -> None:
    assert MixupConfig().blend(0, 0) is None
    assert 140 < len(drawn(BOTH)) < 260
    assert 0.4 < sum(blend.box is not None for blend in drawn(BOTH)) / len(drawn(BOTH)) < 0.6
    assert not any(blend.box for blend in drawn(BOTH.replace(switch_probability=0.0)))
    assert all(blend.box for blend in drawn(BOTH.replace(switch_probability=1.0)))
    assert all(blend.box for blend in drawn(MixupConfig(cutmix_alpha=1.0, switch_probability=0.0)))


@pytest.mark.parametrize("side", [32, 96, 224])
def test_the_weight_of_cutmix_is_the_area_that_an_image_keeps(side: int) -> None:
    """At both sizes of the recipe, also where the border cuts the box."""
    blends = drawn(MixupConfig(cutmix_alpha=1.0), num_steps=100)
    view = torch.stack([torch.ones(3, side, side), torch.zeros(3, side, side)])[None]
    for blend in blends:
        (seen,) = blend([view])
        assert float(seen[0, 0].mean()) == pytest.approx(blend.weight, abs=1e-6)
        assert float(seen[0, 1].mean()) == pytest.approx(1 - blend.weight, abs=1e-6)
    touching = [blend for blend in blends if blend.box and (blend.box.top == 0 or blend.box.right == 1)]
    assert 10 < len(touching) < 95
    assert sum(blend.weight for blend in blends) / len(blends) > 0.5  # what the border cuts off is given back


def test_cutmix_puts_the_same_part_of_the_mirror_into_views_of_every_size() -> None:
    views = [torch.randn(2, 4, 3, 32, 32), torch.randn(3, 4, 3, 16, 8)]
    kept = [group.clone() for group in views]
    blended = Blend(0.875, Box(top=0.5, bottom=1.0, left=0.0, right=0.25))(views)
    for group, before, after in zip(views, kept, blended, strict=True):
        height, width = group.shape[-2:]
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[height // 2 :, : width // 4] = True
        assert torch.equal(after, torch.where(inside, before.flip(1), before))
        assert torch.equal(group, before)  # the teacher sees them as they were


def test_mixup_adds_the_mirror() -> None:
    view = torch.randn(1, 3, 3, 4, 4)
    torch.testing.assert_close(Blend(0.3)([view])[0], 0.3 * view + 0.7 * view.flip(1))


@pytest.mark.parametrize("blend", [Blend(0.3), Blend(0.75, Box(0.0, 0.5, 0.0, 0.5))])
def test_the_teacher_s_views_stay_as_they_were_where_timm_blends_them_too(blend: Blend) -> None:
    """The authors hand `images[:2]` to the teacher, and then blend the same tensors with timm's Mixup."""
    views = [torch.randn(2, 4, 3, 8, 8)]
    before = views[0].clone()
    blend(views)
    assert torch.equal(views[0], before)
    for options in ({"mixup_alpha": 0.8}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}):
        np.random.seed(0)
        theirs = before[0].clone()
        Mixup(**options, num_classes=4)(theirs, torch.arange(4))
        assert not torch.equal(theirs, before[0])
