"""Local files get their name once their content is on the disk, and in no other order."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.atomic import write_file


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What happens to the disk: ("sync", content) and ("name", path)."""
    events: list[tuple[str, str]] = []
    sync, link, replace = os.fsync, os.link, os.replace

    def syncing(file: int) -> None:
        events.append(("sync", Path(f"/proc/self/fd/{file}").read_text()))
        sync(file)

    def naming(original: Any) -> Any:
        def name(source: Path, path: Path) -> None:
            events.append(("name", path.name))
            original(source, path)

        return name

    for function, replacement in (("fsync", syncing), ("link", naming(link)), ("replace", naming(replace))):
        monkeypatch.setattr(os, function, replacement)
    return events


@pytest.mark.parametrize("replace", [True, False])
def test_bytes_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, events: list[tuple[str, str]], replace: bool
) -> None:
    write_file(tmp_path / "x", b"content", replace)
    assert events == [("sync", "content"), ("name", "x")]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_second_name(
    tmp_path: Path, events: list[tuple[str, str]], replace: bool
) -> None:
    (tmp_path / "source").write_text("content")
    write_file(tmp_path / "x", tmp_path / "source", replace)
    assert events == [("sync", "content"), ("name", "x")]
    assert (tmp_path / "x").samefile(tmp_path / "source") != replace  # linked only where it will not be replaced


def test_a_file_that_cannot_be_linked_is_copied(
    tmp_path: Path, events: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, path: Path) -> None:
        if Path(source) == tmp_path / "source":
            raise OSError(errno.EXDEV, "another file system")
        os_link(source, path)

    os_link = os.link
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_text("content")
    write_file(tmp_path / "x", tmp_path / "source", replace=False)
    assert events[-2:] == [("sync", "content"), ("name", "x")]
    assert (tmp_path / "x").read_text() == "content" and not (tmp_path / "x").samefile(tmp_path / "source")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "x", tmp_path / "nothing", replace=True)
    (tmp_path / "x").write_text("old")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "x", b"new", replace=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"
