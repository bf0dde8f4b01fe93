"""A build: complete, the same bytes however it came about, resumable, and careful with what is there."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.format.tar import iter_samples
from pipeline.store import Store, read_manifest
from tools.shard_builder.build import BuildError, BuildOptions, BuildReport, build
from tools.shard_builder.verify import verify
from tools.shard_builder.writer import PublishError


def run(source: Path, dest: Path, **changes: Any) -> BuildReport:
    options: dict[str, Any] = {"dataset": "image-folder", "split": "train", "shard_bytes": 20_000} | changes
    return build(BuildOptions(source=source, dest=str(dest), **options))


def files(dest: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}


def test_every_image_is_there_once_as_it_was(tiny_image_folder: Path, tmp_path: Path) -> None:
    report = run(tiny_image_folder, tmp_path / "out")
    manifest = read_manifest(Store(tmp_path / "out"))
    assert (report.num_samples, report.num_classes, report.num_rejects) == (36, 3, 0)
    assert manifest.classes == ("ant", "bee", "cat") and manifest.digest == report.manifest_digest
    assert len(manifest.shards) > 2
    samples = [s for entry in manifest.shards for s in iter_samples(tmp_path / "out" / entry.tar_name)]
    originals = {path.read_bytes(): path.parent.name for path in tiny_image_folder.rglob("*.*")}
    assert {sample.image: manifest.classes[sample.label] for sample in samples} == originals
    assert len({sample.key for sample in samples}) == 36
    assert verify(Store(tmp_path / "out")).problems == ()


def test_stock_webdataset_reads_the_shards(tiny_image_folder: Path, tmp_path: Path) -> None:
    """The snippet of docs/shards.md, as it stands there."""
    run(tiny_image_folder, tmp_path / "shards")
    page = (Path(__file__).resolve().parents[3] / "docs/shards.md").read_text()
    (snippet,) = re.findall(r"```python\n(import webdataset.*?)```", page, flags=re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", snippet]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "36 images of 3 classes\n"


def test_statistics_are_those_of_the_images(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    spread = read_manifest(Store(tmp_path / "out")).image_bytes
    sizes = sorted(path.stat().st_size for path in tiny_image_folder.rglob("*.*"))
    assert (spread.min, spread.median, spread.max) == (sizes[0], sizes[17], sizes[-1])


def test_workers_and_places_do_not_change_the_bytes(tiny_image_folder: Path, tmp_path: Path) -> None:
    moved = tiny_image_folder.rename(tmp_path / "elsewhere")
    run(moved, tmp_path / "one", num_workers=1)
    run(moved.rename(tmp_path / "again"), tmp_path / "two", num_workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_second_run_has_nothing_to_do(tiny_image_folder: Path, tmp_path: Path) -> None:
    first = run(tiny_image_folder, tmp_path / "out")
    second = run(tiny_image_folder, tmp_path / "out")
    assert second.was_complete and not first.was_complete
    assert (second.num_samples_written, second.manifest_digest) == (0, first.manifest_digest)


@pytest.mark.parametrize(
    "lost",
    [
        ["manifest.json"],
        ["manifest.json", "_build/done/000001.json"],
        ["manifest.json", "_build/done/000001.json", "train-000001.index.npy"],
        ["manifest.json", "train-000001.tar"],
        ["manifest.json", "_build/plan.json"],
    ],
)
def test_resumes_from_whatever_is_there(tiny_image_folder: Path, tmp_path: Path, lost: list[str]) -> None:
    run(tiny_image_folder, tmp_path / "out")
    before = files(tmp_path / "out")
    for name in lost:
        (tmp_path / "out" / name).unlink()
    report = run(tiny_image_folder, tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert not report.was_complete and report.num_samples_written < report.num_samples


def test_a_garbled_marker_is_as_good_as_none(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/_build/done/000000.json").write_bytes(b"{")
    run(tiny_image_folder, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_refuses_the_destination_of_another_plan(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    with pytest.raises(BuildError, match=r"holds another build .* choose another --dest"):
        run(tiny_image_folder, tmp_path / "out", shuffle_seed=1)


def test_refuses_to_mix_two_states_of_the_source(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out", shard_bytes=10**6)
    for name in ("manifest.json", "_build/done/000000.json"):
        (tmp_path / "out" / name).unlink()
    image = tiny_image_folder / "train/ant/ant_00.jpg"
    data = bytearray(image.read_bytes())
    data[-20] ^= 1  # the same size: the plan cannot know
    image.write_bytes(data)
    with pytest.raises(PublishError, match=r"train-000000\.tar exists with other content"):
        run(tiny_image_folder, tmp_path / "out", shard_bytes=10**6)


def damage(source: Path) -> None:
    (source / "train/ant/ant_01.jpg").write_bytes(b"")
    (source / "train/bee/bee_01.jpg").write_bytes(b"no image")
    cut = source / "train/cat/cat_01.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])


def test_rejects_are_listed_and_limited(tiny_image_folder: Path, tmp_path: Path) -> None:
    damage(tiny_image_folder)
    with pytest.raises(BuildError, match=r"3 images were rejected, more than --max-rejects 2: first .*\.jpg"):
        run(tiny_image_folder, tmp_path / "out", max_rejects=2)
    assert not (tmp_path / "out/manifest.json").exists()
    report = run(tiny_image_folder, tmp_path / "out", max_rejects=3)
    assert (report.num_samples, report.num_rejects, report.num_samples_written) == (33, 3, 0)
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    reasons = {reject["path"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {"ant/ant_01.jpg", "bee/bee_01.jpg", "cat/cat_01.jpg"}
    assert reasons["ant/ant_01.jpg"] == "empty file"
    assert reasons["cat/cat_01.jpg"].startswith("damaged image")


def test_a_shard_of_rejects_only_is_left_out(tiny_image_folder: Path, tmp_path: Path) -> None:
    damage(tiny_image_folder)
    report = run(tiny_image_folder, tmp_path / "out", shard_bytes=1, max_rejects=3)
    assert report.num_shards == 33
    assert verify(Store(tmp_path / "out")).problems == ()


def test_nothing_but_rejects_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in/ant").mkdir(parents=True)
    (tmp_path / "in/ant/1.jpg").write_bytes(b"no image")
    with pytest.raises(BuildError, match="every image was rejected"):
        run(tmp_path / "in", tmp_path / "out", max_rejects=1)


@pytest.mark.parametrize(("num_workers", "kill_at"), [(1, (1, 5)), (2, (3,))])
def test_killed_anywhere_a_rerun_ends_with_the_same_bytes(
    tiny_image_folder: Path, tmp_path: Path, num_workers: int, kill_at: tuple[int, ...]
) -> None:
    run(tiny_image_folder, tmp_path / "calm", shard_bytes=3_000)
    script = (
        "import sys; from pathlib import Path; from tools.shard_builder.build import *\n"
        "if __name__ == '__main__':\n"
        "    build(BuildOptions('image-folder', Path(sys.argv[1]), 'train', sys.argv[2], 3000,\n"
        "                       num_workers=int(sys.argv[3])))\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, tmp_path / "script.py", tiny_image_folder, tmp_path / "out", str(num_workers)]
    for num_done in kill_at:  # shards that are done when the axe falls
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(tmp_path.glob("out/_build/done/*.json"))) < num_done:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out/manifest.json").exists()
    run(tiny_image_folder, tmp_path / "out", shard_bytes=3_000)
    finished = {name: data for name, data in files(tmp_path / "out").items() if not name.endswith(".part")}
    assert finished == files(tmp_path / "calm")
