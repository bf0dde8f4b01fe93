"""pipeline-bench as a user starts it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.bench.command import main
from pipeline.bench.sheet import CELL, HEADER


@pytest.fixture
def bench(shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on the small shards: exit status, stdout and stderr."""

    def run(*options: str) -> tuple[object, str, str]:
        command = ["pipeline-bench", "crops", str(shards), "--num-threads", "1", "--images", "4"]
        monkeypatch.setattr(sys, "argv", [*command, "--batch-size", "4", "--device", "cpu", *options])
        with pytest.raises(SystemExit) as exit_info:
            main()
        return exit_info.value.code, *capsys.readouterr()

    return run


def test_speeds_of_every_executor_as_json(bench: Any, shards: Path) -> None:
    status, out, _ = bench("--executor", "reference,cpu,dali", "--rounds", "1", "--json")
    result = json.loads(out)
    speeds = result.pop("views of recipe dino")
    assert result.pop("peak_memory_mb") > 50
    conditions = {"url": str(shards), "recipe": "dino", "num_threads": 1, "dtype": "float32", "device": "cpu"}
    assert status == 0 and result == conditions
    assert list(speeds) == ["reference", "cpu", "dali"]
    assert all(row["images_per_second"] > 0 for row in speeds.values())
    assert speeds["reference"]["ratio"] == 1


@pytest.mark.parametrize("recipe", ["linear", "eval"])
def test_rivals_and_floors_are_timed_and_drawn(bench: Any, tmp_path: Path, recipe: str) -> None:
    rivals = "original,dali-native,floor-decode,floor-resize"
    chart = tmp_path / "speeds.svg"
    status, out, _ = bench("--executor", rivals, "--rounds", "1", "--json", "--recipe", recipe, "--plot", str(chart))
    speeds = json.loads(out)[f"views of recipe {recipe}"]
    assert status == 0 and list(speeds) == rivals.split(",")
    assert all(name in chart.read_text() for name in speeds)


def test_differences_to_the_first_executor_as_json(bench: Any) -> None:
    status, out, _ = bench("--parity", "--json")
    (differences,) = json.loads(out)["differences in 1/255"].values()
    assert status == 0 and len(differences["mean_by_view"]) == 10
    assert 0 < differences["mean"] < 1.5 and differences["worst_view"] < 4


@pytest.mark.parametrize("options", [("--rounds", "1"), ("--parity", "--dtype", "uint8")])
def test_tables_are_for_people(bench: Any, options: tuple[str, ...]) -> None:
    status, out, _ = bench(*options)
    assert status == 0 and "executor" in out and "cpu" in out and "peak memory" in out


def test_a_contact_sheet_has_a_labelled_row_per_image_and_executor(bench: Any, tmp_path: Path) -> None:
    status, out, _ = bench("--sheet", str(tmp_path / "sheet.png"))
    assert status == 0 and str(tmp_path / "sheet.png") in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (11 * CELL, HEADER + 4 * 2 * CELL)
        bands = [sheet.crop((0, HEADER + (row + 1) * CELL - 32, CELL, HEADER + (row + 1) * CELL)) for row in range(8)]
    labels = [band.tobytes() for band in bands]
    assert all(band.getextrema() == ((0, 255),) * 3 for band in bands), "black text on white"
    assert len(set(labels)) == 8, "each row says which image and which executor"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--executor", "cpu,original", "--parity"), "error: original does not render the plan"),
        (("--executor", "cpu", "--parity"), "name two or more with --executor"),
        (("--sheet", "/nowhere/sheet.png"), "error: cannot write /nowhere/sheet.png: No such file or directory"),
        (("--sheet", "sheet.text"), "error: cannot write sheet.text: name it .png, .jpg or .webp"),
    ],
)
def test_a_mistake_is_one_sentence(bench: Any, options: tuple[str, ...], sentence: str) -> None:
    status, out, err = bench(*options)
    assert status == 2 and out == "" and sentence in err and "Traceback" not in err
