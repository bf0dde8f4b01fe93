"""The schedules against the authors' arrays (built here with numpy) and against values worked out by hand."""

import numpy as np
import pytest

from esvit.schedules import ScheduleConfig, Schedules, cosine, linear
from pipeline.config import ConfigError, load


def cosine_array(base: float, final: float, num_steps: int, warmup: int = 0) -> np.ndarray:
    steps = np.arange(num_steps - warmup)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate([np.linspace(0, base, warmup), falling])


@pytest.mark.parametrize(("epochs", "warmup", "per_epoch"), [(12, 3, 5), (4, 0, 7), (3, 1, 1), (2, 2, 3)])
def test_equal_to_the_published_arrays(epochs: int, warmup: int, per_epoch: int) -> None:
    config = ScheduleConfig(epochs=epochs, warmup_epochs=warmup, warmup_teacher_temperature_epochs=2)
    schedules = Schedules(config, steps_per_epoch=per_epoch, global_batch=512)
    values = [schedules.at(step) for step in range(schedules.num_steps)]
    num_steps = epochs * per_epoch
    np.testing.assert_allclose(
        [v.lr for v in values], cosine_array(1e-3, 1e-6, num_steps, warmup * per_epoch), rtol=1e-12
    )
    np.testing.assert_allclose([v.weight_decay for v in values], cosine_array(0.04, 0.4, num_steps))
    np.testing.assert_allclose([v.momentum for v in values], cosine_array(0.996, 1, num_steps))
    temperatures = np.concatenate([np.linspace(0.04, 0.07, 2), np.full(epochs, 0.07)])[:epochs]
    np.testing.assert_allclose([v.teacher_temperature for v in values], temperatures.repeat(per_epoch))


def test_recipe_of_swin_tiny_by_hand() -> None:
    schedules = Schedules(ScheduleConfig(), steps_per_epoch=100, global_batch=1024)
    assert schedules.at(0) == pytest.approx((0.0, 0.04, 0.996, 0.04, 1.0))
    assert schedules.at(999).lr == pytest.approx(2e-3)  # the last step of the warm-up is at the peak ...
    assert schedules.at(1000).lr == pytest.approx(2e-3)  # ... and so is the first of the cosine
    assert schedules.at(15_500).lr == pytest.approx((2e-3 + 1e-6) / 2)
    assert schedules.at(15_000)[1:4] == pytest.approx((0.22, 0.998, 0.07))
    assert schedules.at(2_999).teacher_temperature == pytest.approx(0.07)  # epoch 29, the last of the warm-up
    assert schedules.at(1_499).teacher_temperature == pytest.approx(0.04 + 0.03 * 14 / 29)
    last = schedules.at(29_999)
    assert 1e-6 < last.lr < 1.001e-6 and 0.399 < last.weight_decay < 0.4 and 0.999 < last.momentum < 1


def test_shapes_of_short_ramps() -> None:
    assert [linear(2.0, 4.0, 3, step) for step in range(5)] == [2.0, 3.0, 4.0, 4.0, 4.0]
    assert [linear(2.0, 4.0, 1, step) for step in range(2)] == [2.0, 4.0]
    assert linear(2.0, 4.0, 0, 0) == 4.0
    assert [cosine(1.0, 0.0, 2, step) for step in range(2)] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("key", ["warmup_epochs", "warmup_teacher_temperature_epochs"])
def test_warmup_longer_than_the_run_is_refused(key: str) -> None:
    short = ["epochs=5", "warmup_epochs=0", "warmup_teacher_temperature_epochs=0"]
    load(ScheduleConfig, [], [*short, f"{key}=5"])
    with pytest.raises(ConfigError, match=rf"{key} \(6\) exceeds epochs \(5\)"):
        load(ScheduleConfig, [], [*short, f"{key}=6"])


@pytest.mark.parametrize("step", [-1, 10])
def test_steps_outside_the_run_are_our_bug(step: int) -> None:
    config = ScheduleConfig(epochs=2, warmup_epochs=0, warmup_teacher_temperature_epochs=0)
    with pytest.raises(AssertionError, match="outside the run of 10 steps"):
        Schedules(config, steps_per_epoch=5, global_batch=8).at(step)


def test_the_region_task_comes_in_after_its_start() -> None:
    config = ScheduleConfig(epochs=6, warmup_epochs=0, warmup_teacher_temperature_epochs=0)
    scheduled = config.replace(region_start_epoch=2, region_warmup_epochs=1)
    shares = [Schedules(scheduled, 3, 8).at(step).region_share for step in range(18)]
    assert shares == [0.0] * 6 + [0.0, 0.5, 1.0] + [1.0] * 9
    assert [Schedules(config, 3, 8).at(step).region_share for step in range(18)] == [1.0] * 18
