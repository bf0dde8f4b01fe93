"""The commands `diff` and `copy`."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.format.checksum import digest_bytes
from pipeline.format.manifest import MANIFEST_NAME
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store
from support.command import Run, build_args
from support.shards import forge
from tools.shard_builder.build.journal import ClaimError
from tools.shard_builder.commands.copy import CopyError, copy
from tools.shard_builder.commands.diff import diff
from tools.shard_builder.commands.verify import verify


@pytest.fixture
def shards(run: Run, tiny_image_folder: Path, tmp_path: Path) -> Path:
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    return tmp_path / "out"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differences(a: Path, b: Path) -> list[str]:
    return list(diff(Store(a), Store(b)))


def test_a_data_set_does_not_differ_from_itself(run: Run, shards: Path) -> None:
    assert run("diff", shards, shards) == "no difference\n"


def test_names_the_samples_that_differ(run: Run, tiny_image_folder: Path, shards: Path, tmp_path: Path) -> None:
    folder = tiny_image_folder / "train"
    changed, gone, moved = sorted((folder / "ant").iterdir())[:3]
    Image.new("RGB", (40, 40), "red").save(changed, "JPEG")
    gone.unlink()
    moved.rename(folder / "bee" / f"new-{moved.name}")
    run(*build_args(tiny_image_folder, tmp_path / "other"))
    found = differences(shards, tmp_path / "other")
    samples = [line for line in found if line.startswith("sample ")]
    assert sorted(line.partition(": ")[2] for line in samples) == [
        "has different image bytes", "only in A", "only in A", "only in B",
    ]  # fmt: skip
    assert run("diff", shards, tmp_path / "other", "--limit", 1, status=1).endswith(f"and {len(found) - 1} more\n")


def test_other_shards_of_the_same_samples(run: Run, tiny_image_folder: Path, shards: Path, tmp_path: Path) -> None:
    run(*build_args(tiny_image_folder, tmp_path / "other"), "--shard-size", "40kB")
    found = differences(shards, tmp_path / "other")
    assert [line.partition(":")[0] for line in found] == ["plan_digest", "shards"]


def test_labels_are_compared_by_name(shards: Path, tmp_path: Path) -> None:
    """Equal shards under other class names are not equal."""
    shutil.copytree(shards, tmp_path / "renamed")
    manifest = read_manifest(Store(shards)).replace(classes=("ant", "wasp", "cat"))
    (tmp_path / "renamed" / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    found = differences(shards, tmp_path / "renamed")
    assert found[0] == "classes: 3 in A, 3 in B; number 1 is bee, wasp"
    assert len(found) == 13 and all(line.endswith("is bee in A, wasp in B") for line in found[1:])


def test_copies_byte_for_byte(run: Run, shards: Path, tmp_path: Path) -> None:
    out = run("copy", shards, tmp_path / "copy")
    assert read_manifest(Store(shards)).digest in out
    assert files(tmp_path / "copy") == files(shards)
    assert "0 shards copied" in run("copy", shards, tmp_path / "copy")
    tar = next(shards.glob("*.tar"))
    assert tar.stat().st_ino != (tmp_path / "copy" / tar.name).stat().st_ino  # one damaged leaves the other whole


def test_an_interrupted_copy_goes_on(shards: Path, tmp_path: Path) -> None:
    copy(Store(shards), Store(tmp_path / "copy"))
    (tmp_path / "copy" / MANIFEST_NAME).unlink()
    (tmp_path / "copy" / "_build/done/000001.json").unlink()
    (tmp_path / "copy" / "train-000001.idx").unlink()
    assert copy(Store(shards), Store(tmp_path / "copy"))[1] == 1
    assert files(tmp_path / "copy") == files(shards)


def test_refuses_a_damaged_source(shards: Path, tmp_path: Path) -> None:
    tar = shards / "train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xda", b"\xff\xdb", 1))
    with pytest.raises(CopyError, match=r"train-000001\.tar does not have the digest"):
        copy(Store(shards), Store(tmp_path / "copy"))
    assert not (tmp_path / "copy" / MANIFEST_NAME).exists()


def test_refuses_the_place_of_another(run: Run, tiny_image_folder: Path, shards: Path, tmp_path: Path) -> None:
    run(*build_args(tiny_image_folder, tmp_path / "other"), "--no-shuffle")
    with pytest.raises(ClaimError, match="holds another build"):
        copy(Store(shards), Store(tmp_path / "other"))


def test_verify_looks_at_the_sidecars(shards: Path) -> None:
    """A stale DALI index would make DALI read other bytes as images."""
    shutil.copy(shards / "train-000000.idx", shards / "train-000001.idx")
    (shards / "train-000002.tar.idx").write_bytes(b"")
    assert verify(Store(shards)).problems == (
        "train-000001.idx: is not the index of train-000001.tar",
        "train-000002.tar.idx: is not the index of train-000002.tar",
    )


def test_verify_decodes(run: Run, tiny_image_folder: Path, tmp_path: Path) -> None:
    """A PNG whose structure is whole, but not its pixels, is found only by decoding it."""
    folder = tiny_image_folder / "train"
    path = folder / "ant" / "broken.png"
    Image.effect_noise((32, 32), 50).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 0xFF
    path.write_bytes(data)
    run(*build_args(tiny_image_folder, tmp_path / "out"))
    assert run("verify", tmp_path / "out").startswith("ok")
    assert "broken" in run("verify", tmp_path / "out", "--decode", "--num-workers", 2, status=1)


def test_verify_remembers_good_shards(run: Run, shards: Path, tmp_path: Path) -> None:
    state = tmp_path / "verified.jsonl"
    damaged = shards / "train-000001.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    num_shards = len(read_manifest(Store(shards)).shards)
    run("verify", shards, "--state", state, status=1)
    assert len(state.read_text().splitlines()) == num_shards - 1
    damaged.write_bytes(whole)
    state.write_text(state.read_text() + '{"url": "half a l')
    assert f"{num_shards - 1} of the shards were verified before" in run("verify", shards, "--state", state)
    assert f"{num_shards} of the shards were verified before" in run("verify", shards, "--state", state)
    again = run("verify", shards, "--state", state, "--decode")  # more than was done then
    assert again.startswith("ok") and "before" not in again
    assert "cannot use --state" in run("verify", shards, "--state", shards, status=2)


def test_memory_is_of_digests_not_of_names(run: Run, shards: Path, tmp_path: Path) -> None:
    state = tmp_path / "verified.jsonl"
    run("verify", shards, "--state", state)
    forge(Store(shards), 0, digest=digest_bytes(b"other"))
    assert "does not have the digest" in run("verify", shards, "--state", state, status=1)
