"""Builds on S3 while the network and the store misbehave: the same bytes in the end, or one clear sentence."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.store import Store, client, retry
from support.fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from tools.shard_builder.build.run import BuildOptions, build
from tools.shard_builder.build.runners import RunnerError
from tools.shard_builder.commands.verify import verify

pytestmark = pytest.mark.s3

TAR, INDEX, DONE = "train-000001.tar", "train-000001.samples.npy", "_build/done/000001.json"


@pytest.fixture
def proxy(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the server, and what this process takes for the server."""
    with fault_proxy(s3_server.endpoint_url) as proxy:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in (s3_server.env | {"AWS_ENDPOINT_URL": proxy.endpoint_url}).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def options(s3_server: Any, tiny_image_folder: Path) -> BuildOptions:
    dest = f"{s3_server.new_url()}/set"
    return BuildOptions("image-folder", tiny_image_folder, "train", dest, shard_bytes=20_000)


@pytest.fixture
def digest(options: BuildOptions, tmp_path: Path) -> str:
    """Of the undisturbed build."""
    calm = BuildOptions("image-folder", options.source, "train", str(tmp_path / "calm"), 20_000)
    manifest_digest = build(calm).manifest_digest
    assert manifest_digest is not None
    return manifest_digest


@pytest.mark.parametrize(
    "fault",
    [
        Fault("503", "PUT", TAR, times=3),
        Fault("503", "PUT", "manifest.json"),
        Fault("503", "HEAD", "manifest.json"),
        Fault("503", "GET", INDEX, times=2),
        Fault("reset", "PUT", "_build/plan.json"),
        Fault("reset", "PUT", TAR, times=2),
        Fault("reset", "GET", DONE),
        Fault("lost", "PUT", "_build/plan.json"),
        Fault("lost", "PUT", TAR, times=2),
        Fault("lost", "PUT", INDEX),
        Fault("lost", "PUT", DONE),
        Fault("lost", "PUT", "manifest.json"),
        Fault("short", "GET", INDEX, times=2),
        Fault("short", "GET", "_build/plan.json"),
        Fault("slow", "GET", INDEX),
        Fault("stall", "GET", INDEX),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.target}",
)
def test_transient_faults_change_nothing(
    fault: Fault, proxy: FaultProxy, options: BuildOptions, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(client._S3_OPTIONS["config_kwargs"], "read_timeout", 1)
    fault = Fault(fault.kind, fault.method, fault.target, fault.times)
    proxy.faults.append(fault)
    assert build(options).manifest_digest == digest
    assert fault.times == 0, "it never happened"
    assert verify(Store(options.dest)).problems == ()


def test_a_lost_answer_to_a_multipart_upload_is_no_conflict(
    proxy: FaultProxy, options: BuildOptions, tmp_path: Path
) -> None:
    """The server has the object and says so to the next attempt; the build then compares."""
    store = Store(options.dest)
    (tmp_path / "up").write_bytes(os.urandom(2**20) * 40)
    proxy.faults += [
        Fault("lost", "POST", r"large\?uploads"),
        Fault("503", "PUT", r"large\?partNumber=2.*"),
        Fault("lost", "POST", r"large\?uploadId=.*"),
    ]
    assert not store.put_new("large", tmp_path / "up")
    assert [fault.times for fault in proxy.faults] == [0, 0, 0]
    store.download("large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


@pytest.mark.parametrize(
    ("kind", "suffix", "sentence"),
    [
        ("403", TAR, "train-000001.tar: permission denied; check the keys and their permissions"),
        ("403", "_build/plan.json", "cannot write .*plan.json: permission denied"),
        ("503", "_build/plan.json", r"the store asks to slow down \(gave up after \d+ tries\)"),
        ("503", TAR, r"shards failed or were not begun: .* the store asks to slow down \(gave up after"),
        ("reset", TAR, r"train-000001.tar: the (connection broke off|endpoint cannot be reached)"),
    ],
)
def test_lasting_faults_end_in_one_sentence_and_a_rerun_goes_on(
    kind: Any,
    suffix: str,
    sentence: str,
    proxy: FaultProxy,
    options: BuildOptions,
    digest: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "_PATIENCE_S", 0.5)
    proxy.faults.append(Fault(kind, "PUT", suffix, times=1000))
    with pytest.raises(UserError, match=sentence) as info:
        build(options)
    assert "\n" not in str(info.value) and isinstance(info.value, RunnerError) == (suffix == TAR)
    assert not Store(options.dest).exists("manifest.json")
    proxy.faults.clear()
    assert build(options).manifest_digest == digest


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_a_build_within_5_s_while_its_workers_wait_for_the_store(
    number: signal.Signals, status: int, proxy: FaultProxy, options: BuildOptions
) -> None:
    """The workers are processes, and only their parent gets the signal."""
    waiting: list[str] = []

    def hold(method: str, target: str) -> Kind | None:
        if method == "PUT" and target.endswith(".tar"):
            waiting.append(target)
            return "late"
        return None

    proxy.choose, proxy.late_s = hold, 20.0
    words = ["--dataset", "image-folder", "--source", options.source, "--split", "train", "--dest", options.dest]
    words += ["--shard-size", "20kB", "--num-workers", "2"]
    command = [sys.executable, "-m", "tools.shard_builder", "build", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while len(waiting) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        begin_s = time.monotonic()
        assert process.wait(timeout=10) == status
        assert time.monotonic() - begin_s < 5
