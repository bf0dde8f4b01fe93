"""esvit-bench on a small network: every phase of every variant is timed, and the sums agree."""

import json
import sys
from pathlib import Path

import pytest
import torch

from esvit.bench.memory import peak_bytes
from esvit.bench.step import PHASES, matmul_flops_per_second, parse_arguments, run
from esvit.bench.views import recipe
from pipeline.augment import MultiCropConfig
from support.shards import jpegs, write_shards

SMALL = ["esvit-bench", "--backbone", "swin_nano", "--batch", "2", "--views", "2x32,2x16", "--prototypes", "64"]


def bench(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [*SMALL, "--rounds", "2", "--threads", "1", *options])
    run(parse_arguments())


def test_json_has_every_variant_and_phase(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench(monkeypatch, "--variant", "direct,fused,recompute", "--json")
    result = json.loads(capsys.readouterr().out)
    assert list(result["variants"]) == ["direct", "fused", "recompute"]
    assert result["variants"]["direct"]["time_ratio"] == 1
    for row in result["variants"].values():
        assert list(row["phases"]) == list(PHASES)
        assert 0 < row["mfu"] < 1 and row["images_per_second"] == pytest.approx(2 / row["step_seconds"])
        assert row["peak_bytes"] == row["peak_step_bytes"] + row["resident_bytes"]
    assert result["variants"]["recompute"]["peak_step_bytes"] <= result["variants"]["fused"]["peak_step_bytes"]


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench(monkeypatch)
    assert "images_per_second" in capsys.readouterr().out


def test_with_data_a_step_waits_for_its_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_shards(tmp_path, jpegs(3), jpegs(3))
    phases = {}
    for name, options in (("noise", ()), ("shards", ("--data", str(tmp_path)))):
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
        (["--variant", "direct,slow"], "no variant 'slow'; choose from direct, fused, recompute, compiled"),
        (["--views", "2x"], "is not of the form 2x224,8x96"),
        (["--views", "1x32"], "at least two crops"),
        (["--batch", "0"], "'0' is not a positive number"),
    ],
)
def test_mistakes_are_named(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(monkeypatch, *options)
    assert message in capsys.readouterr().err


def test_peak_counts_what_is_alive_at_a_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(2**20, dtype=torch.uint8)

    assert 2**20 <= peak_bytes(one_after_the_other) < 2**20 + 1000
    assert matmul_flops_per_second(torch.device("cpu"), torch.float32, side=64) > 0
