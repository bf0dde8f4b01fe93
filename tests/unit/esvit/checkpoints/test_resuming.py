"""What a run goes on from: a fault of a moment changes nothing, and what cannot be read is not overwritten."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esvit.checkpoints import files, resuming
from esvit.checkpoints.files import CheckpointError, name_of, note_of
from esvit.checkpoints.keeping import CheckpointConfig, Checkpointer
from pipeline.store import Store


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PAUSES_S", (0, 0))


def say(_: str) -> None:
    """Says nothing."""


def write(folder: Path, *steps: int) -> Store:
    store = Store(folder)
    for step in steps:
        files.write(store, {"step": step, "weights": torch.full((4,), float(step))})
    return store


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resumed_step(store: Store) -> int:
    found = resuming.to_resume(store, say)
    assert found
    return int(found.saved["step"])


class MomentaryStore(Store):
    """The first answer about the object `victim` is wrong; the listing stays without the objects `unlisted`."""

    victim = ""
    fault: Callable[[bytes], bytes] = staticmethod(bytes)
    unlisted: tuple[str, ...] = ()

    def read(self, name: str) -> bytes:
        if name == self.victim:
            self.victim = ""
            return type(self).fault(super().read(name))
        return super().read(name)

    def list(self, prefix: str = "") -> list[str]:
        return [name for name in super().list(prefix) if name not in self.unlisted]


@pytest.mark.parametrize("victim", ["step-00000020.pt", "step-00000020.json", "latest.json"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:], id="a wrong byte"),
        pytest.param(lambda _: b"<Error>busy</Error>", id="an error body"),
        pytest.param(lambda data: data[:-3], id="cut"),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_a_wrong_answer_of_a_moment_changes_nothing(
    tmp_path: Path, victim: str, fault: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 0, 10, 20)
    store, said = MomentaryStore(tmp_path), list[str]()
    monkeypatch.setattr(MomentaryStore, "fault", staticmethod(fault))
    store.victim = victim
    found = resuming.to_resume(store, said.append)
    assert found and (found.name, found.damaged, said) == ("step-00000020.pt", (), [])


def test_no_flipped_bit_of_a_note_is_believed(tmp_path: Path) -> None:
    store = write(tmp_path, 20)

    def read() -> tuple[object, object]:
        return files.read_note(store, "step-00000020.pt"), files.latest_step(store)

    right = read()
    for path in (tmp_path / "step-00000020.json", tmp_path / "latest.json"):
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with contextlib.suppress(CheckpointError):
                assert read() in (right, (right[0], None))
        path.write_bytes(content)


@pytest.mark.parametrize("unlisted", [(20,), (10, 20), (0, 10, 20)])
def test_the_newest_is_found_where_the_listing_is_behind(tmp_path: Path, unlisted: tuple[int, ...]) -> None:
    write(tmp_path, 0, 10, 20)
    store = MomentaryStore(tmp_path)
    store.unlisted = tuple(part for step in unlisted for part in (name_of(step), note_of(name_of(step))))
    assert resumed_step(store) == 20
    assert files.names(store)[-1] == "step-00000020.pt"


@pytest.mark.parametrize("lost", ["step-00000020.json", "step-00000020.pt"])
def test_a_half_of_the_newest_is_named_and_kept(tmp_path: Path, lost: str) -> None:
    store = write(tmp_path, 0, 10, 20)
    (tmp_path / lost).unlink()
    before, said = content(tmp_path), list[str]()
    found = resuming.to_resume(store, said.append)
    assert found and (found.saved["step"], found.damaged) == (10, ("step-00000020.pt",))
    assert len(said) == 1 and "step-00000020.pt cannot be read" in said[0]
    assert content(tmp_path) == before
    resuming.set_aside(store, found, said.append)
    kept = next(name for name in before if name.startswith("step-00000020"))
    assert (tmp_path / "damaged" / kept).read_bytes() == before[kept] and not (tmp_path / kept).exists()
    assert "moved" in said[1] and f"to damaged/{kept}" in said[1]
    again = resuming.to_resume(store, said.append)
    assert again and (again.name, again.damaged, len(said)) == ("step-00000010.pt", (), 2)


def test_what_is_set_aside_twice_is_kept_twice(tmp_path: Path) -> None:
    store = write(tmp_path, 10)
    for damage in (b"one", b"two", b"three"):
        write(tmp_path, 20)
        (tmp_path / "step-00000020.pt").write_bytes(damage)
        found = resuming.to_resume(store, say)
        assert found
        resuming.set_aside(store, found, say)
    kept = {path.read_bytes() for path in (tmp_path / "damaged").glob("*.pt*")}
    assert kept == {b"one", b"two", b"three"}


@pytest.mark.parametrize("damaged", [(10, 20), (20, 10, 5)])
def test_a_run_does_not_go_back_past_several(tmp_path: Path, damaged: tuple[int, ...]) -> None:
    store = write(tmp_path, 2, 5, 10, 20)
    for step in damaged:
        (tmp_path / name_of(step)).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=rf"{len(damaged)} of the checkpoints .*newest is step-00000020"):
        resuming.to_resume(store, say)


def test_a_run_does_not_go_back_to_its_beginning(tmp_path: Path) -> None:
    store = write(tmp_path, 0, 10)
    (tmp_path / "step-00000010.json").unlink()
    with pytest.raises(CheckpointError, match=r"the damaged ones and latest\.json away to go on from step-00000000"):
        resuming.to_resume(store, say)
    (tmp_path / "step-00000010.pt").unlink()
    (tmp_path / "latest.json").unlink()
    assert resumed_step(store) == 0


@pytest.mark.parametrize("lost", ["*.json", "step-*.json", "step-*.pt"])
def test_a_folder_that_was_half_copied_is_not_an_empty_one(tmp_path: Path, lost: str) -> None:
    store = write(tmp_path, 0, 10, 20)
    for path in tmp_path.glob(lost):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"all \d checkpoints in .* are damaged; remove them to start anew"):
        resuming.to_resume(store, say)


def test_what_a_killed_writer_leaves_is_no_fault(tmp_path: Path) -> None:
    store = write(tmp_path, 0, 10)
    (tmp_path / "step-00000020.pt").write_bytes(b"half")
    found = resuming.to_resume(store, say)
    assert found and (found.name, found.damaged) == ("step-00000010.pt", ())


def test_without_latest_a_newer_file_may_be_half_copied(tmp_path: Path) -> None:
    store = write(tmp_path, 0, 10)
    (tmp_path / "latest.json").unlink()
    (tmp_path / "step-00000005.pt").write_bytes(b"a rest")
    assert resumed_step(store) == 10
    (tmp_path / "step-00000020.pt").write_bytes(b"half")
    found = resuming.to_resume(store, say)
    assert found and found.damaged == ("step-00000020.pt",)


def test_a_note_of_another_step_is_not_believed(tmp_path: Path) -> None:
    store = write(tmp_path, 10, 20)
    (tmp_path / "step-00000020.json").write_bytes((tmp_path / "step-00000010.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"step-00000020\.json is the note of step 10"):
        files.read_note(store, "step-00000020.pt")


@pytest.mark.parametrize(
    "left",
    [
        "checkpoints/step-00000003.pt",
        "checkpoints/other.bin",
        "checkpoints/a/b.txt",
        "log.jsonl",
        "samples-rank-3.jsonl",
    ],
)
def test_starting_over_needs_a_word(tmp_path: Path, left: str) -> None:
    store = Store(tmp_path / "checkpoints")
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("x")
    assert resuming.to_resume(store, say) is None
    with pytest.raises(CheckpointError, match=rf"{left}; copy the missing .*checkpoint\.allow_start_over=true"):
        resuming.refuse_start_over(store, tmp_path, first_step=0)


def test_a_killed_start_starts_again_without_a_word(tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints")
    store.put("writers/00000001.json", b"{}")
    store.put("step-00000004.pt", b"half of the first checkpoint")
    (tmp_path / "config.yaml").write_text("written by --print-config")
    assert resuming.to_resume(store, say) is None
    resuming.refuse_start_over(store, tmp_path, first_step=4)


def test_what_another_run_has_just_written_is_not_passed(tmp_path: Path) -> None:
    store = write(tmp_path, 0, 10)
    found = resuming.to_resume(store, say)
    resuming.check_unchanged(store, found)
    write(tmp_path, 20)
    for known in (found, None):
        with pytest.raises(CheckpointError, match=r"another run has just written .*/step-00000020\.pt; run the same"):
            resuming.check_unchanged(store, known)


class LostError(Exception):
    """What a lease says."""


@pytest.mark.parametrize(("num_passed", "written"), [(0, set()), (1, {"step-00000020.pt"})])
def test_a_run_that_has_lost_its_place_writes_no_checkpoint(tmp_path: Path, num_passed: int, written: set[str]) -> None:
    before = content(write(tmp_path, 0, 10).local_path("") or tmp_path)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > num_passed:
            raise LostError

    with Checkpointer(CheckpointConfig(keep_last=1), Store(tmp_path), 10, say, check) as checkpoints:
        checkpoints.continue_after(10)
        checkpoints.save({"step": 20})
        with pytest.raises(LostError):
            checkpoints.wait()
    after = content(tmp_path)
    assert after.keys() - before.keys() == written and before.items() <= after.items()
    assert resumed_step(Store(tmp_path)) == 10


def test_a_run_that_loses_its_place_while_it_writes_removes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 10)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise LostError

    with Checkpointer(CheckpointConfig(keep_last=1), Store(tmp_path), 10, say, check) as checkpoints:
        checkpoints.continue_after(10)
        checkpoints.save({"step": 20})
    assert files.names(Store(tmp_path)) == ["step-00000000.pt", "step-00000010.pt", "step-00000020.pt"]
