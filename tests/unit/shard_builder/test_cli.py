"""The command line: what it prints, what it exits with, and one sentence for every mistake."""

import json
import os
from pathlib import Path

import pytest

from pipeline import telemetry
from support.command import Run, build_args
from tools.shard_builder.commands import show


def test_build_verify_stats(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    out = run(*build_args(tiny_image_folder, tmp_path / "out"))
    assert "36 samples of 3 classes" in out and "MB/s" in out
    assert "nothing to do" in run(*build_args(tiny_image_folder, tmp_path / "out"))
    assert run("verify", tmp_path / "out").startswith("ok: ")
    assert "bee" in run("stats", tmp_path / "out")
    (tmp_path / "out/train-000000.tar").unlink()
    assert "not ok: 1 problems" in run("verify", tmp_path / "out", status=1)


def test_json_is_one_line(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    report = json.loads(run(*build_args(tiny_image_folder, tmp_path / "out"), "--json"))
    assert report["num_samples"] == report["num_samples_written"] == 36
    assert report["mb_per_s"] > 0 and report["samples_per_s"] > 0
    stats = json.loads(run("stats", tmp_path / "out", "--json"))
    assert stats["samples_per_class"] == {"ant": 12, "bee": 12, "cat": 12}
    assert stats["digest"] == report["manifest_digest"]


def test_every_report_can_be_had_as_one_json_object(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "out"
    built = json.loads(run(*build_args(tiny_image_folder, shards), "--json"))
    finished = json.loads(run("finalize", "--dest", shards, "--json"))
    assert finished["manifest_digest"] == built["manifest_digest"]
    assert (finished["num_samples_written"], finished["samples_per_s"], finished["mb_per_s"]) == (0, None, None)
    verified = json.loads(run("verify", shards, "--json"))
    assert verified["is_ok"] and verified["problems"] == []
    assert (verified["num_shards"], verified["num_samples"]) == (built["num_shards"], 36)
    copied = json.loads(run("copy", shards, tmp_path / "copy", "--json"))
    assert copied["manifest_digest"] == built["manifest_digest"]
    assert copied["num_shards_copied"] == copied["num_shards"] == built["num_shards"]
    shown = json.loads(run("show", shards, "--index", 30, "--count", 9, "--json"))
    assert [sample["number"] for sample in shown["samples"]] == [30, 31, 32, 33, 34, 35]
    assert shown["samples"][0].keys() == {
        "number", "shard", "key", "classes", "ext", "width", "height", "num_bytes",
    }  # fmt: skip
    same = json.loads(run("diff", shards, tmp_path / "copy", "--json"))
    assert same == {"a": str(shards), "b": str(tmp_path / "copy"), "num_differences": 0, "differences": []}


def test_json_of_data_at_fault(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "out"
    run(*build_args(tiny_image_folder, shards))
    run(*build_args(tiny_image_folder, tmp_path / "other"), "--shuffle-seed", 1)
    found = json.loads(run("diff", shards, tmp_path / "other", "--json", "--limit", 1, status=1))
    assert found["num_differences"] == 2 and len(found["differences"]) == 1
    assert json.loads(run("diff", shards, tmp_path / "other", "--json", "--limit", 0, status=1))["differences"] == []
    (shards / "train-000000.tar").unlink()
    broken = json.loads(run("verify", shards, "--json", status=1))
    assert not broken["is_ok"] and "train-000000" in broken["problems"][0]


def test_ranges_then_finalize(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    args = build_args(tiny_image_folder, tmp_path / "out")
    assert f"shard-builder finalize --dest {tmp_path}/out" in run(*args, "--shard-range", "1:")
    assert "shards are missing" in run("finalize", "--dest", tmp_path / "out", status=2)
    assert json.loads(run(*args, "--shard-range", ":1", "--json"))["manifest_digest"] is None
    assert "36 samples of 3 classes" in run("finalize", "--dest", tmp_path / "out")
    assert "nothing to do" in run("finalize", "--dest", tmp_path / "out")


def test_options_of_images_reach_the_images(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    shrink = ["--shorter-side", 20, "--to-jpeg", "--jpeg-quality", 90, "--grayscale", "drop", "--exif", "strip"]
    out = run(*build_args(tiny_image_folder, tmp_path / "out"), *shrink, "--decode-check", "--deduplicate")
    assert "35 samples of 3 classes" in out and "1 rejected" in out
    options = json.loads((tmp_path / "out/_build/plan.json").read_text())["options"]
    assert options | {"pillow": ""} == {
        "shard_bytes": 20_000, "shuffle_seed": 0, "deduplicate": True, "shorter_side": 20, "longer_side": None,
        "to_jpeg": True, "jpeg_quality": 90, "grayscale": "drop", "cmyk": "keep", "exif": "strip", "decode_check": True,
        "pillow": "",
    }  # fmt: skip


def test_metrics_are_served_and_count(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    before = next(iter(telemetry.BUILD_SAMPLES.collect())).samples[0].value
    run(*build_args(tiny_image_folder, tmp_path / "out"), "--metrics-port", 0)
    assert next(iter(telemetry.BUILD_SAMPLES.collect())).samples[0].value == before + 36
    phases = {sample.labels["phase"] for sample in next(iter(telemetry.BUILD_PHASE_SECONDS.collect())).samples}
    assert phases == {"plan", "read", "check", "pack", "publish", "finish"}


def test_bench_compares_and_leaves_nothing(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    args = [
        "bench",
        "--source",
        tiny_image_folder,
        "--dest",
        tmp_path / "out",
        "--gigabytes",
        0.0001,
        "--num-workers",
        1,
    ]
    report = json.loads(run(*args, "--rounds", 1, "--json"))
    rivals = {"tar cf, then sha256sum", "webdataset ShardWriter", "the same, on the disk"}
    assert report["mb_per_s"].keys() == rivals | {"shard-builder"}
    assert not (tmp_path / "out").exists()
    assert "1.00x" in run(*args, "--rounds", 1)


def test_mistakes_give_one_sentence(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    assert "cannot read source" in run(*build_args(tmp_path / "none", tmp_path / "out"), status=2)
    assert "holds no manifest.json" in run("verify", tmp_path / "none", status=2)
    assert "holds no manifest.json" in run("stats", tmp_path / "none", status=2)
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    other = run(*build_args(tiny_image_folder, tmp_path / "out"), "--no-shuffle", status=2)
    assert other.startswith("error: ") and other.count("\n") == 1


def test_bench_leaves_alone_what_was_there(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    assert "is not empty" in run("bench", "--source", tiny_image_folder, "--dest", tmp_path / "mine", status=2)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_contact_sheet_has_its_limit(
    run: Run, tiny_image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    monkeypatch.setattr(show, "_MAX_ON_SHEET", 8)
    args = ["show", tmp_path / "out", "--output", tmp_path / "sheet.png"]
    assert "holds at most 8 images" in run(*args, status=2)
    assert not (tmp_path / "sheet.png").exists()
    run(*args, "--count", 8)
    assert (tmp_path / "sheet.png").exists()


def test_a_destination_whose_name_is_no_utf_8(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    dest, copied = (tmp_path / os.fsdecode(name) for name in (b"caf\xe9", b"copy\xe9"))
    assert r"caf\udce9: 36 samples" in run(*build_args(tiny_image_folder, dest))
    assert r"caf\udce9" in "".join(run("stats", dest).split())  # a narrow terminal breaks the line
    run("stats", dest, "--html", tmp_path / "page.html")
    assert r"caf\udce9" in (tmp_path / "page.html").read_text()
    assert r"copy\udce9" in run("copy", dest, copied)
    assert run("verify", copied).startswith("ok: ")
