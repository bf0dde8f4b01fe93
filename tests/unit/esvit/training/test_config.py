"""What the settings of a run owe each other: defaults give way, contradictions are refused and both keys named."""

from typing import Any

import pytest

from esvit.training.config import TrainConfig
from pipeline.config import ConfigError, dump, load

GIVEN: dict[str, Any] = {"output": "run", "global_batch": 16, "data": {"stream": {"shards": "shards"}}}


def load_with(*overrides: str) -> TrainConfig:
    return load(TrainConfig, [GIVEN], overrides)


@pytest.mark.parametrize(
    ("epochs", "warmup", "temperature_warmup", "frozen"),
    [(300, 10, 30, 1), (30, 10, 30, 1), (29, 9, 29, 1), (6, 2, 6, 1), (2, 0, 2, 1), (1, 0, 1, 0)],
)
def test_a_short_run_has_shorter_warmups(epochs: int, warmup: int, temperature_warmup: int, frozen: int) -> None:
    config = load_with(f"schedule.epochs={epochs}")
    assert config.schedule.warmup_epochs == warmup
    assert config.schedule.warmup_teacher_temperature_epochs == temperature_warmup
    assert config.optim.freeze_last_layer_epochs == frozen


@pytest.mark.parametrize(("batch", "lanes"), [(64, 8), (16, 8), (12, 4), (4, 4), (7, 1)])
def test_a_small_batch_has_fewer_lanes(batch: int, lanes: int) -> None:
    assert load_with(f"global_batch={batch}").data.stream.order.lanes == lanes


def test_what_fits_is_a_default_and_what_is_given_stays() -> None:
    config = load_with("schedule.epochs=6", "optim.beta1=0.8", "global_batch=12", "data.stream.order.block_shards=2")
    assert (config.optim.beta1, config.data.stream.order.block_shards) == (0.8, 2)
    assert load(TrainConfig, [config.model_dump(exclude_unset=True)]) == config
    explicit = load_with("data.stream.order.lanes=2", "optim.freeze_last_layer_epochs=3", "schedule.warmup_epochs=1")
    assert explicit.data.stream.order.lanes == 2
    assert explicit.optim.freeze_last_layer_epochs == 3 and explicit.schedule.warmup_epochs == 1


def test_the_resolved_config_loads_the_same(tmp_path: Any) -> None:
    config = load_with("schedule.epochs=1", "global_batch=4")
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(TrainConfig, [tmp_path / "config.yaml"]) == config


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["schedule.epochs=6", "schedule.warmup_epochs=7"], ["warmup_epochs (7)", "epochs (6)"]),
        (
            ["schedule.epochs=6", "schedule.warmup_teacher_temperature_epochs=30"],
            ["warmup_teacher_temperature_epochs (30)", "epochs (6)"],
        ),
        (
            ["schedule.epochs=6", "optim.freeze_last_layer_epochs=6"],
            ["optim.freeze_last_layer_epochs (6)", "schedule.epochs (6)"],
        ),
        (["schedule.epochs=6", "schedule.region_start_epoch=6"], ["region_start_epoch (6)", "schedule.epochs (6)"]),
        (
            ["schedule.epochs=6", "schedule.region_start_epoch=4", "schedule.region_warmup_epochs=3"],
            ["region_start_epoch (4)", "region_warmup_epochs (3)", "schedule.epochs (6)"],
        ),
        (["data.stream.order.lanes=3"], ["global_batch (16)", "data.stream.order.lanes (3)"]),
        (["accumulation=3"], ["global_batch (16)", "accumulation (3)"]),
        (["augment.views=[{size: 32, count: 1, area: [0.1, 1]}]"], ["augment.views"]),
        (["schedule.epochs=x"], ["'schedule.epochs'", "(got 'x')"]),
    ],
)
def test_a_contradiction_names_both_keys(overrides: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_with(*overrides)
    assert [words for words in named if words not in str(error.value)] == []
    assert "{" not in str(error.value) and "default" not in str(error.value)


def test_the_start_of_the_region_task_matters_only_where_there_is_one() -> None:
    load_with("schedule.epochs=6", "schedule.region_start_epoch=15", "loss.region_weight=0")
    load_with("schedule.epochs=6", "schedule.region_start_epoch=5")
