"""The augmentation plan: a function of the sample alone, legal for every image, and true to the recipe."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.augment.crop_plan import CropPlan
from pipeline.augment.plan import CenterCrop, CenterCropConfig, MultiCrop, MultiCropConfig, ViewGroup

RECIPE = MultiCropConfig()
GOLDEN = Path(__file__).parents[3] / "golden/plan_seed_7_epoch_2.json"
FIELDS = ("top", "left", "height", "width", "flip", "coloured", "matrix", "pivot", "sigma", "solarize")
SIDES = st.one_of(st.integers(1, 64), st.integers(1, 20_000))
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6)


def plan_of(planner: MultiCrop | CenterCrop, ids: list[int], sizes: list[tuple[int, int]], epoch: int = 0) -> CropPlan:
    heights, widths = np.array(sizes, dtype=np.int64).T
    return planner(epoch, np.array(ids, dtype=np.int64), heights, widths)


@pytest.fixture(scope="module")
def large() -> CropPlan:
    """The recipe for 20,000 images of 2,000 x 1,500 pixels: rounding does not matter, everything fits."""
    return plan_of(MultiCrop(RECIPE, seed=1), list(range(20_000)), [(2000, 1500)] * 20_000)


@given(st.data())
def test_a_view_depends_on_its_sample_only(data: st.DataObject) -> None:
    planner = MultiCrop(RECIPE, seed=9)
    ids = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=6, unique=True))
    sizes = data.draw(st.lists(st.tuples(SIDES, SIDES), min_size=len(ids), max_size=len(ids)))
    picked = data.draw(st.lists(st.sampled_from(range(len(ids))), min_size=1, max_size=6))
    together = plan_of(planner, ids, sizes, epoch=3)
    apart = plan_of(planner, [ids[i] for i in picked], [sizes[i] for i in picked], epoch=3)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(together, field)[:, picked], getattr(apart, field))


@pytest.mark.parametrize(("seed", "epoch", "sample"), [(2, 0, 5), (1, 1, 5), (1, 0, 6)])
def test_seed_epoch_and_sample_each_change_the_views(seed: int, epoch: int, sample: int) -> None:
    size = [(300, 400)]
    ours = plan_of(MultiCrop(RECIPE, seed=1), [5], size)
    other = plan_of(MultiCrop(RECIPE, seed), [sample], size, epoch)
    assert not np.array_equal(ours.left, other.left) and not np.array_equal(ours.matrix, other.matrix)


def test_the_views_of_a_sample_differ(large: CropPlan) -> None:
    windows = {(int(large.top[v, 0]), int(large.left[v, 0])) for v in range(10)}
    assert len(windows) == 10


@example([(1, 1), (20_000, 1), (1, 20_000), (2, 3)])
@given(SIZES)
def test_windows_lie_inside_the_image(sizes: list[tuple[int, int]]) -> None:
    for planner in (MultiCrop(RECIPE, seed=0), CenterCrop(CenterCropConfig())):
        plan = plan_of(planner, list(range(len(sizes))), sizes)
        heights, widths = np.array(sizes).T
        least = 1 if plan.cut else 224 / 256  # of an image of one pixel
        assert (plan.height >= least).all() and (plan.width >= least).all()
        assert (plan.top >= 0).all() and (plan.top + plan.height <= heights).all()
        assert (plan.left >= 0).all() and (plan.left + plan.width <= widths).all()


def test_a_strip_that_no_window_fits_gets_the_most_of_its_centre() -> None:
    # As torchvision: the whole short side, and the long one up to the widest or narrowest legal aspect.
    plan = plan_of(MultiCrop(RECIPE, seed=0), [0, 1], [(30, 3000), (3000, 30)])
    np.testing.assert_array_equal(plan.height, [[30, 40]] * 10)
    np.testing.assert_array_equal(plan.width, [[40, 30]] * 10)
    np.testing.assert_array_equal(plan.left, [[1480, 0]] * 10)
    np.testing.assert_array_equal(plan.top, [[0, 1480]] * 10)


@pytest.mark.parametrize("size", [(40, 10), (10, 40)])
def test_a_window_may_be_as_wide_or_as_high_as_its_image(size: tuple[int, int]) -> None:
    square = MultiCropConfig(views=(ViewGroup(size=8, count=50, area=(0.25, 0.25)),), aspect=(1, 1))
    plan = plan_of(MultiCrop(square, seed=0), [0], [size])
    assert set(plan.height.ravel()) == set(plan.width.ravel()) == {10}
    free = plan.top if size[0] == 40 else plan.left
    assert free.min() < 5 and free.max() > 25  # not the fallback, which is the centre


def test_areas_and_aspects_fill_their_ranges(large: CropPlan) -> None:
    share = large.height * large.width / (2000 * 1500)
    aspect = large.width / large.height
    assert aspect.min() == pytest.approx(3 / 4, abs=5e-3) and aspect.max() == pytest.approx(4 / 3, abs=5e-3)
    for group, (low, high) in zip(large.groups, ((0.4, 1.0), (0.05, 0.4)), strict=True):
        assert low - 1e-3 <= share[group].min() < low + 0.01
        assert high - 0.02 < share[group].max() <= high + 1e-3
    # log(aspect) and the area of the small views, which always fit, are uniform.
    small = large.groups[1]
    for drawn, low, high in ((np.log(aspect[small]), *np.log((3 / 4, 4 / 3))), (share[small], 0.05, 0.4)):
        counts = np.histogram(drawn, 10, (low, high))[0]
        assert np.abs(counts / counts.sum() - 0.1).max() < 0.005


def test_windows_are_uniform_over_the_image(large: CropPlan) -> None:
    small = large.groups[1]
    place = large.left[small] / (1500 - large.width[small])
    assert place.min() < 0.001 and place.max() == 1
    assert np.abs(np.histogram(place, 10, (0, 1))[0] / place.size - 0.1).max() < 0.005


@pytest.mark.parametrize(
    ("views", "blur", "solarize"), [(slice(0, 1), 1.0, 0.0), (slice(1, 2), 0.1, 0.2), (slice(2, 10), 0.5, 0.0)]
)
def test_probabilities_are_those_of_the_recipe(large: CropPlan, views: slice, blur: float, solarize: float) -> None:
    gray = (large.matrix[views, ..., 0, :] == large.matrix[views, ..., 1, :]).all(axis=-1)
    chances = {"flip": 0.5, "coloured": 1 - 0.2 * 0.8, "solarize": solarize}
    counted = [(getattr(large, name)[views], chance) for name, chance in chances.items()]
    for happened, chance in [*counted, (gray, 0.2), (large.sigma[views] > 0, blur)]:
        deviation = np.sqrt(chance * (1 - chance) / happened.size)
        assert abs(happened.mean() - chance) <= 5 * deviation


def test_choices_are_independent(large: CropPlan) -> None:
    choices = [large.flip, large.coloured, large.sigma > 0, large.left > np.median(large.left[2:])]
    views = np.stack([choice[2:].ravel() for choice in choices])
    np.testing.assert_allclose(np.corrcoef(views), np.eye(4), atol=0.015)


def test_blur_sigmas_are_uniform(large: CropPlan) -> None:
    sigma = large.sigma[0]
    assert 0.1 <= sigma.min() < 0.101 and 1.999 < sigma.max() <= 2.0
    assert sigma.mean() == pytest.approx(1.05, abs=0.02)


def test_views_that_keep_their_colours_have_the_identity(large: CropPlan) -> None:
    plain = ~large.coloured
    np.testing.assert_array_equal(large.matrix[plain], np.broadcast_to(np.eye(3), (plain.sum(), 3, 3)))
    assert not large.pivot[plain].any()


def test_each_group_of_views_becomes_one_stack_even_where_sizes_are_equal() -> None:
    groups = (ViewGroup(size=32, count=2, area=(0.4, 1)), ViewGroup(size=32, count=3, area=(0.1, 0.4)))
    plan = plan_of(MultiCrop(MultiCropConfig(views=groups), seed=0), [0], [(40, 40)])
    assert plan.groups == (slice(0, 2), slice(2, 5)) and plan.num_views == 5
    assert plan.sizes == ((32, 32),) * 5


def test_the_plan_of_a_seed_never_changes() -> None:
    plan = plan_of(MultiCrop(RECIPE, seed=7), list(range(64)), [(300 + i, 500 - 3 * i) for i in range(64)], epoch=2)
    digest = hashlib.sha256()
    for field in FIELDS:
        digest.update(np.rint(getattr(plan, field) * 1000.0).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "8569d087266a2bcb"
    # The same in a form that says what changed: all views of three of the samples.
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == set(FIELDS)
    for field, expected in golden.items():
        np.testing.assert_allclose(getattr(plan, field)[:, :3], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "wrong", [{"blur": (0.1, 0.2, 0.3)}, {"size": 0}, {"count": 0}, {"sizes": 3}], ids=lambda wrong: next(iter(wrong))
)
def test_views_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MultiCropConfig.model_validate({"views": [{"size": 8, "count": 2, "area": (0.1, 1), **wrong}]})


def test_a_centre_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValidationError, match="size 256 is larger than resize 224"):
        CenterCropConfig(size=256, resize=224)
