"""A cache is a folder of this user alone, and never one that somebody else has laid out."""

import os
from pathlib import Path

import pytest

from pipeline.shards.cache import CacheConfig
from pipeline.shards.data_sets import DataSet, JoinedDataSets
from pipeline.shards.interface import CacheError
from pipeline.store import Store
from pipeline.store.private import private_folder
from support.shards import jpegs, write_shards


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_cache_is_closed_to_others(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "a/b") == tmp_path / "a/b" and mode(tmp_path / "a/b") == 0o700
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o777)
    private_folder(tmp_path / "old")
    assert mode(tmp_path / "old") == 0o700


def test_links_above_a_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / ".cache").symlink_to(tmp_path / "disk")
    private_folder(tmp_path / ".cache/shards")
    assert mode(tmp_path / "disk/shards") == 0o700


def test_a_link_or_a_file_in_the_place_of_a_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(PermissionError, match="it is a link; choose another cache folder"):
        private_folder(tmp_path / "link")
    assert mode(tmp_path / "target") == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")


def test_the_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="it belongs to another user; choose another cache folder"):
        private_folder(tmp_path / "theirs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_another_user_put_into_a_common_folder_is_refused(kind: str, tmp_path: Path) -> None:
    common, mine = tmp_path / "tmp", tmp_path / "mine"
    common.mkdir()
    common.chmod(0o1777)
    mine.mkdir()
    (common / "cache").symlink_to(mine) if kind == "link" else (common / "cache").mkdir()
    os.chown(common / "cache", 12345, 12345, follow_symlinks=False)
    with pytest.raises(PermissionError, match="another user has made it, where everybody may write") as caught:
        private_folder(common / "cache/shards")
    assert caught.value.filename == str(common / "cache")
    private_folder(common / "own/shards")


def test_the_cache_of_shards_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{tmp_path.name}")
    manifest = write_shards(store.url, jpegs(1))
    cache = CacheConfig(folder=str(tmp_path / "cache"))
    JoinedDataSets([DataSet(store, manifest)], cache).shard(0)
    assert [mode(path) for path in (tmp_path / "cache").iterdir()] == [0o700]
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CacheError, match="it belongs to another user; choose another cache folder"):
        JoinedDataSets([DataSet(store, manifest)], cache).shard(0)
