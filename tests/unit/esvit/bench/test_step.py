"""esvit-bench on a small network: every phase of every variant is timed, and nothing of a step is left out."""

import json
import sys
from pathlib import Path

import pytest
import torch

from esvit.bench import variants
from esvit.bench.memory import peak_bytes
from esvit.bench.step import matmul_flops_per_second
from esvit.bench.views import recipe
from esvit.commands.bench import VARIANTS, main
from pipeline.augment import MultiCropConfig
from pipeline.console.command import EXIT_USER_ERROR
from support.shards import jpegs, write_shards

SMALL = ["esvit-bench", "--backbone", "swin_nano", "--views", "2x32,2x16", "--prototypes", "64", "--device", "cpu"]


def bench(monkeypatch: pytest.MonkeyPatch, *options: str) -> int | None:
    """The exit status."""
    monkeypatch.setattr(sys, "argv", [*SMALL, "--rounds", "2", "--num-threads", "1", *options])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert not isinstance(exit_info.value.code, str)
    return exit_info.value.code


def test_json_has_every_variant_and_phase(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(monkeypatch, "--variant", "direct,fused,recompute", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["variants"]) == ["direct", "fused", "recompute"]
    assert result["variants"]["direct"]["time_ratio"] == 1
    for row in result["variants"].values():
        assert list(row["phases"]) == ["data", "teacher", "student", "loss", "backward", "clip", "optimizer", "ema"]
        assert min(list(row["phases"].values())[1:]) > 1e-6
        assert 0 < row["mfu"] < 1 and row["images_per_second"] == pytest.approx(2 / row["step_seconds"])
        assert row["peak_bytes"] == row["peak_step_bytes"] + row["resident_bytes"]
    assert result["variants"]["recompute"]["peak_step_bytes"] <= result["variants"]["fused"]["peak_step_bytes"]


def test_the_phases_lie_within_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    class Kept(variants.OurStep):
        def __init__(self, settings: variants.Settings) -> None:
            super().__init__(settings)
            steps.append(self)

    monkeypatch.setitem(variants.VARIANTS, "fused", Kept)
    assert bench(monkeypatch, "--variant", "fused") == 0
    measured = steps[0]
    assert len(measured.seconds) == 2  # the warm-up is forgotten
    for seconds, *phases in zip(measured.seconds, *measured.phases.values(), strict=True):
        assert 0.5 * seconds < sum(phases) < seconds


def test_the_command_offers_the_variants_that_there_are() -> None:
    assert tuple(variants.VARIANTS) == VARIANTS


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(monkeypatch) == 0
    assert "images_per_second" in capsys.readouterr().out


def test_with_data_a_step_waits_for_its_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_shards(tmp_path, jpegs(3), jpegs(3))
    phases = {}
    for name, options in (("noise", ()), ("shards", (str(tmp_path),))):
        bench(monkeypatch, "--variant", "fused", "--json", *options)
        phases[name] = json.loads(capsys.readouterr().out)["variants"]["fused"]["phases"]
    assert phases["noise"]["data"] < 1e-3 < phases["shards"]["data"]


def test_the_recipe_keeps_its_odds_with_other_views() -> None:
    assert recipe([(2, 224), (8, 96)]).views[0] == MultiCropConfig().views[0]
    large, small, smaller = recipe([(3, 64), (2, 32), (1, 16)]).views
    assert large.per_view(large.blur) == [1.0, 0.1, 0.1] and large.per_view(large.solarize) == [0.0, 0.2, 0.2]
    assert small.area == smaller.area == MultiCropConfig().views[1].area and smaller.size == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "direct,slow"], "'slow' is not one of direct, fused, recompute, compiled"),
        (["--views", "2x"], "is not of the form 2x224,8x96"),
        (["--views", "2x0"], "numbers from 1 on"),
        (["--views", "1x32"], "at least two crops"),
        (["--batch-size", "0"], "'0' is not a whole number from 1 on"),
        (["--num-threads", "0"], "'0' is not a whole number from 1 on"),
        (["--rounds", "0"], "'0' is not a whole number from 1 on"),
        (["--prototypes", "1"], "'1' is not a whole number from 2 on"),
        (["--backbone", "nosuch"], "--backbone nosuch: there is no 'nosuch'; choose one of swin_nano"),
        (["--backbone", "timm/nosuch"], "--backbone timm/nosuch: timm has no model 'nosuch'"),
        (["--backbone", "resnet50"], "leave 'direct' out of --variant"),
        (["nowhere"], "nowhere holds no manifest.json"),
    ],
)
def test_mistakes_are_named(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, *options) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert message in said.err and said.err.count("error: ") == 1 and said.out == ""


def test_peak_counts_what_is_alive_at_a_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(2**20, dtype=torch.uint8)

    assert 2**20 <= peak_bytes(one_after_the_other) < 2**20 + 1000
    assert matmul_flops_per_second(torch.device("cpu"), torch.float32, side=64) > 0
