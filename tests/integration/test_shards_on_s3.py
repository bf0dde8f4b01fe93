"""Build, verify and read shards on a real S3 server, and the sentences for everything S3 can refuse."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

import pipeline.store.retry
from pipeline.shards.data_sets import read_manifest
from pipeline.store import Store, StoreError
from pipeline.store.probe import overwrites
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.commands.copy import copy
from tools.shard_builder.commands.diff import diff
from tools.shard_builder.commands.samples import read_numbered
from tools.shard_builder.commands.verify import verify

pytestmark = pytest.mark.s3


class S3Server(Protocol):
    endpoint_url: str
    env: dict[str, str]
    new_url: Callable[[], str]


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new place in a bucket; this process may use it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_url()


def test_store_methods(bucket: str, tmp_path: Path) -> None:
    store = Store(f"{bucket}/a/prefix")
    assert store.list() == [] and not store.exists("x")
    assert store.put_new("x", b"one") and not store.put_new("x", b"two")
    assert store.read("x") == b"one" and store.size("x") == 3
    store.put("folder/y", b"0123456789")
    assert store.read_range("folder/y", 2, 5) == b"23456"
    assert store.list() == ["folder/y", "x"] and store.list("folder/") == ["folder/y"]
    assert not store.exists("folder")
    store.put("x", b"")
    store.download("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""
    store.delete("x")
    store.delete("x")
    assert store.list() == ["folder/y"]


def test_this_server_keeps_what_is_there(bucket: str) -> None:
    store = Store(f"{bucket}/probed")
    assert not overwrites(store)
    assert not [path for path in store._client.fs.find(store._client.root) if ".probe" in path]


def test_large_objects_go_in_parts(bucket: str, tmp_path: Path) -> None:
    store = Store(bucket)
    data = os.urandom(2**20) * 40
    (tmp_path / "up").write_bytes(data)
    assert store.put_new("large", tmp_path / "up")
    assert not store.put_new("large", tmp_path / "up")
    store.download("large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data


def test_one_of_many_writers_wins(bucket: str) -> None:
    store = Store(bucket)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda i: store.put_new("x", b"%d" % i), range(4)))
    assert won.count(True) == 1 and store.read("x") == b"%d" % won.index(True)


def test_build_is_the_one_of_a_local_folder(bucket: str, tiny_image_folder: Path, tmp_path: Path) -> None:
    local = build(BuildOptions("image-folder", tiny_image_folder, "train", str(tmp_path / "out"), 20_000))
    options = BuildOptions("image-folder", tiny_image_folder, "train", f"{bucket}/set", 20_000, num_workers=2)
    remote = build(options)
    assert remote.manifest_digest == local.manifest_digest
    assert verify(Store(f"{bucket}/set")).problems == ()
    assert build(options).was_complete


def test_verify_names_a_damaged_shard(bucket: str, tiny_image_folder: Path) -> None:
    build(BuildOptions("image-folder", tiny_image_folder, "train", bucket, 20_000))
    store = Store(bucket)
    data = bytearray(store.read("train-000001.tar"))
    data[2000] ^= 1
    store.put("train-000001.tar", bytes(data))
    store.delete("train-000002.tar")
    first, second = verify(store).problems
    assert first.startswith("train-000001.tar: its content does not have the digest")
    assert second.startswith("train-000002: cannot read") and "no such object" in second


def test_copy_to_s3_and_a_look_at_single_samples(bucket: str, tiny_image_folder: Path, tmp_path: Path) -> None:
    build(BuildOptions("image-folder", tiny_image_folder, "train", str(tmp_path / "out"), shard_bytes=20_000))
    here, there = Store(tmp_path / "out"), Store(bucket)
    manifest, num_copied = copy(here, there, num_workers=2)
    assert num_copied == len(manifest.shards) and read_manifest(there).digest == manifest.digest
    assert copy(here, there)[1] == 0 and verify(there).problems == ()
    assert list(diff(here, there)) == []
    numbers = range(10, 20)
    assert list(read_numbered(there, manifest, numbers)) == list(read_numbered(here, manifest, numbers))


def test_killed_build_resumes(bucket: str, tiny_image_folder: Path, tmp_path: Path) -> None:
    args = ["--source", tiny_image_folder, "--dest", f"{bucket}/set", "--shard-size", "3kB", "--num-workers", "1"]
    command = [sys.executable, "-c", "from tools.shard_builder.cli import main; main()", "build"]
    command += ["--dataset", "image-folder", "--split", "train", *map(str, args)]
    store = Store(f"{bucket}/set")
    process = subprocess.Popen(command)
    while process.poll() is None and len(store.list("_build/done/")) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not store.exists("manifest.json")
    subprocess.run(command, check=True, capture_output=True)
    local = build(BuildOptions("image-folder", tiny_image_folder, "train", str(tmp_path / "out"), 3_000))
    assert read_manifest(store).digest == local.manifest_digest


def test_refusals_are_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.store.retry, "_PATIENCE_NEVER_REACHED_S", 60.0)  # the server may be busy
    missing = f"s3://no-such-bucket-{secrets.token_hex(4)}"
    with pytest.raises(StoreError, match=f"cannot read {missing}/x: there is no such bucket"):
        Store(missing).read("x")
    with pytest.raises(StoreError, match=f"cannot list {missing}: there is no such bucket"):
        Store(missing).list()
    with pytest.raises(StoreError, match=r"holds no manifest\.json.* there is no such bucket"):
        read_manifest(Store(missing))
    with pytest.raises(StoreError, match=f"cannot read {bucket}/x: there is no such object"):
        Store(bucket).read("x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=f"cannot read {bucket}/x: .*permission|key"):
        Store(bucket).read("x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    with pytest.raises(StoreError, match=f"cannot write {bucket}/x: the endpoint does not know this access key"):
        Store(bucket).put("x", b"1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_works_on_both_sides_of_a_fork(bucket: str) -> None:
    store = Store(bucket)
    store.put("x", b"parent")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.put("y", store.read("x"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read("y") == b"parent"
