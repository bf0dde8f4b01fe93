"""A build: complete, the same bytes however it came about, resumable, and careful with what is there."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.format.tar import iter_samples
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from tools.shard_builder.build.finish import BuildError
from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.journal import ClaimError, PublishError, mark_done, read_claim, read_done
from tools.shard_builder.build.run import BuildOptions, BuildReport, ShardRangeError, build, finalize
from tools.shard_builder.commands.verify import verify
from tools.shard_builder.readers.sources import FileSource


def run(source: Path, dest: Path | str, **changes: Any) -> BuildReport:
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
    classes: Any = manifest.classes  # which a label that is no number fails to index
    assert {sample.image: classes[sample.label] for sample in samples} == originals
    assert len({sample.key for sample in samples}) == 36
    assert verify(Store(tmp_path / "out")).problems == ()


def test_statistics_are_those_of_the_images(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    spread = read_manifest(Store(tmp_path / "out")).image_bytes
    sizes = sorted(path.stat().st_size for path in tiny_image_folder.rglob("*.*"))
    assert (spread.min, spread.median, spread.max) == (sizes[0], sizes[17], sizes[-1])
    manifest = read_manifest(Store(tmp_path / "out"))
    files_of = tiny_image_folder.rglob("*.*")
    widths, heights = zip(*(Image.open(io.BytesIO(path.read_bytes())).size for path in files_of), strict=True)
    for found, sides in (manifest.image_width, sorted(widths)), (manifest.image_height, sorted(heights)):
        assert (found.min, found.median, found.max) == (sides[0], sides[17], sides[-1])


def test_the_manifest_counts_files_that_are_no_images(tiny_image_folder: Path, tmp_path: Path) -> None:
    (tiny_image_folder / "train/ant/notes.txt").write_text("seen")
    run(tiny_image_folder, tmp_path / "out")
    assert read_manifest(Store(tmp_path / "out")).left_out == {".txt": 1}


def test_an_image_that_vanishes_is_no_duplicate_and_a_reject(
    tiny_image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FileSource.read

    def vanishing(source: FileSource) -> bytes:
        if source.path.endswith("ant_05.jpg"):
            raise FileNotFoundError(2, "No such file or directory")
        return read(source)

    monkeypatch.setattr(FileSource, "read", vanishing)
    report = run(tiny_image_folder, tmp_path / "out", deduplicate=True, max_rejects=1)
    assert (report.num_samples, report.num_rejects) == (35, 1)


@pytest.mark.parametrize("wanted", [slice(50, 60), slice(9, 3)])
def test_a_range_without_a_shard_is_refused(tiny_image_folder: Path, tmp_path: Path, wanted: slice) -> None:
    with pytest.raises(ShardRangeError, match="holds no shard: the plan has"):
        run(tiny_image_folder, tmp_path / "out", shard_range=wanted)


def test_a_shard_is_done_if_all_its_objects_are_there_and_the_plan_is_this_one(
    tiny_image_folder: Path, tmp_path: Path
) -> None:
    run(tiny_image_folder, tmp_path / "out")
    store = Store(tmp_path / "out")
    claim = read_claim(store)
    all_done = read_done(store, claim).keys()
    for name in read_done(store, claim)[0].object_names:
        content = store.read(name)
        store.delete(name)
        assert read_done(store, claim).keys() == all_done - {0}
        store.put(name, content)
    assert len(read_done(store, claim)[0].object_names) == 4
    mark_done(store, read_done(store, claim)[0].replace(plan_digest="0" * 64))
    assert read_done(store, claim).keys() == all_done - {0}


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
        ["manifest.json", "_build/done/000001.json", "train-000001.samples.npy"],
        ["manifest.json", "train-000001.tar"],
        ["manifest.json", "_build/plan.json"],
        ["manifest.json", "wids.json", "train-000001.idx"],
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


def test_refuses_the_destination_of_another_plan_and_says_why(tiny_image_folder: Path, tmp_path: Path) -> None:
    run(tiny_image_folder, tmp_path / "out")
    with pytest.raises(ClaimError, match=r"holds another build \(shuffle_seed was 0, now 1\); choose another --dest"):
        run(tiny_image_folder, tmp_path / "out", shuffle_seed=1)
    with pytest.raises(ClaimError, match="exif was keep, now strip"):
        run(tiny_image_folder, tmp_path / "out", images=ImagePolicy(exif="strip"))
    (tiny_image_folder / "train/ant/ant_00.jpg").unlink()
    with pytest.raises(ClaimError, match="num_images was 36, now 35"):
        run(tiny_image_folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/_build")  # the manifest remembers too
    with pytest.raises(ClaimError, match="holds another data set, complete"):
        run(tiny_image_folder, tmp_path / "out")


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
    with pytest.raises(BuildError, match=r"3 images were rejected, more than --max-rejects 2: the first is .*\.jpg"):
        run(tiny_image_folder, tmp_path / "out", max_rejects=2)
    assert not (tmp_path / "out/manifest.json").exists()
    report = run(tiny_image_folder, tmp_path / "out", max_rejects=3)
    assert (report.num_samples, report.num_rejects, report.num_samples_written) == (33, 3, 0)
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    reasons = {reject["path"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {"ant/ant_01.jpg", "bee/bee_01.jpg", "cat/cat_01.jpg"}
    assert reasons["ant/ant_01.jpg"] == "empty file"
    assert reasons["cat/cat_01.jpg"].startswith("truncated image")


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


def test_ranges_and_finalize_are_a_build(tiny_image_folder: Path, tmp_path: Path) -> None:
    whole = run(tiny_image_folder, tmp_path / "whole")
    with pytest.raises(ClaimError, match="no build was begun there"):
        finalize(str(tmp_path / "parts"))
    part = run(tiny_image_folder, tmp_path / "parts", shard_range=slice(0, 2))
    assert (part.manifest_digest, part.num_shards) == (None, 2)
    with pytest.raises(BuildError, match=rf"shards are missing .* --shard-range 2:{part.num_planned_shards}'"):
        finalize(str(tmp_path / "parts"))
    assert run(tiny_image_folder, tmp_path / "parts", shard_range=slice(2, None)).num_samples_written > 0
    assert run(tiny_image_folder, tmp_path / "parts", shard_range=slice(0, 99)).num_samples_written == 0
    shutil.rmtree(tiny_image_folder)  # no longer needed
    assert finalize(str(tmp_path / "parts")).manifest_digest == whole.manifest_digest
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert finalize(str(tmp_path / "parts")).was_complete


def test_an_emptied_destination_is_not_finished_by_the_build_that_lost_it(
    tiny_image_folder: Path, tmp_path: Path
) -> None:
    run(tiny_image_folder, tmp_path / "out", shard_range=slice(0, 2))
    shutil.rmtree(tmp_path / "out")
    run(tiny_image_folder, tmp_path / "out", shard_range=slice(0, 1), shuffle_seed=1)  # another generation
    with pytest.raises(ClaimError, match="shuffle_seed was 1, now 0"):
        run(tiny_image_folder, tmp_path / "out", shard_range=slice(2, 3))


def test_duplicates_are_left_out_but_for_the_first_by_path(tiny_image_folder: Path, tmp_path: Path) -> None:
    train = tiny_image_folder / "train"
    for copy in ("ant/zzz.jpg", "cat/aaa.jpg"):
        shutil.copy(train / "ant/ant_03.jpg", train / copy)
    (train / "bee/bee_04.jpg").write_bytes((train / "bee/bee_03.jpg").read_bytes())
    report = run(tiny_image_folder, tmp_path / "one", deduplicate=True)
    assert (report.num_samples, report.num_rejects) == (35, 3)  # not counted against --max-rejects
    rejects = [json.loads(line) for line in (tmp_path / "one/rejects.jsonl").read_text().splitlines()]
    assert {reject["path"]: reject["reason"] for reject in rejects} == {
        "ant/zzz.jpg": "duplicate of ant/ant_03.jpg",
        "cat/aaa.jpg": "duplicate of ant/ant_03.jpg",
        "bee/bee_04.jpg": "duplicate of bee/bee_03.jpg",
    }
    run(tiny_image_folder, tmp_path / "two", deduplicate=True, num_workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_images_are_changed_as_the_policy_asks(tiny_image_folder: Path, tmp_path: Path) -> None:
    policy = ImagePolicy(shorter_side=20, to_jpeg=True, grayscale="drop")
    report = run(tiny_image_folder, tmp_path / "out", images=policy)
    assert (report.num_samples, report.num_rejects) == (35, 1)
    manifest = read_manifest(Store(tmp_path / "out"))
    assert min(manifest.image_height.min, manifest.image_width.min) == 20
    samples = [s for entry in manifest.shards for s in iter_samples(tmp_path / "out" / entry.tar_name)]
    images = [Image.open(io.BytesIO(sample.image)) for sample in samples]
    assert {image.format for image in images} == {"JPEG"} and {min(image.size) for image in images} == {20}
    assert verify(Store(tmp_path / "out")).problems == ()


def test_a_store_that_replaces_what_is_there_is_told(
    tiny_image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{tmp_path.name}"
    run(tiny_image_folder, url)
    assert "caution" not in capsys.readouterr().err
    monkeypatch.setattr(Store, "put_new", lambda store, name, source: store.put(name, source) is None)
    run(tiny_image_folder, f"{url}/other")
    said = capsys.readouterr().err
    assert f"caution: {url}/other replaces objects that exist (it ignores If-None-Match), so it does not keep" in said
