"""Training as a user runs it: world sizes agree, runs resume, mistakes get one sentence."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from esvit.commands.train import main
from pipeline.store import retry
from support.training import read_jsonl, train, train_command, trained_samples

pytestmark = pytest.mark.slow


def test_one_rank_and_two_ranks_compute_the_same_steps(shards: str, tmp_path: Path) -> None:
    losses = []
    for num_ranks in (1, 2):
        output = tmp_path / str(num_ranks)
        done = train(output, shards, "schedule.epochs=1", num_ranks=num_ranks)
        assert done.returncode == 0, done.stderr
        losses.append([record["loss"] for record in read_jsonl(output / "log.jsonl")])
    assert len(losses[0]) >= 3
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert trained_samples(tmp_path / "1", 1) == trained_samples(tmp_path / "2", 2)


def test_a_resumed_run_repeats_the_losses_of_an_uninterrupted_one(shards: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ("schedule.epochs=2", "checkpoint.every_steps=3", "model.backbone.drop_path_rate=0.2")
    assert train(whole, shards, *settings).returncode == 0
    shutil.copytree(whole / "checkpoints", parts / "checkpoints")
    for late in [parts / "checkpoints/latest.json", *sorted((parts / "checkpoints").glob("step-*"))[4:]]:
        late.unlink()
    done = train(parts, shards, *settings)
    assert "resuming from" in done.stdout
    expected = {record["step"]: record["loss"] for record in read_jsonl(whole / "log.jsonl")}
    resumed = {record["step"]: record["loss"] for record in read_jsonl(parts / "log.jsonl")}
    assert min(resumed) == 4 and max(resumed) == max(expected)
    assert resumed == {step: expected[step] for step in resumed}


def test_a_mixture_in_epochs_of_so_many_steps_goes_on_with_other_ranks(shards: str, tmp_path: Path) -> None:
    again = shutil.copytree(shards, tmp_path / "again")
    mixture = f"[{{url: {shards}, weight: 3}}, {{url: {again}, weight: 1}}]"
    settings = ("schedule.epochs=2", "schedule.epoch_steps=5", "checkpoint.every_steps=4", "data.stream.order.lanes=2")
    assert train(tmp_path / "whole", mixture, *settings).returncode == 0
    log = {record["step"]: record for record in read_jsonl(tmp_path / "whole" / "log.jsonl")}
    assert max(log) == 10 and log[10]["epoch"] == 2
    (tmp_path / "parts/checkpoints").mkdir(parents=True)
    for file in (tmp_path / "whole/checkpoints").glob("step-00000004.*"):
        shutil.copy(file, tmp_path / "parts/checkpoints")
    done = train(tmp_path / "parts", mixture, *settings, num_ranks=2)
    assert done.returncode == 0 and "step-00000004.pt" in done.stdout, done.stderr
    resumed = {record["step"]: record["loss"] for record in read_jsonl(tmp_path / "parts" / "log.jsonl")}
    assert min(resumed) == 5 and resumed == pytest.approx({step: log[step]["loss"] for step in resumed}, abs=1e-4)


def test_regions_continue_from_a_view_only_run(shards: str, tmp_path: Path) -> None:
    first = tmp_path / "view"
    assert train(first, shards, "schedule.epochs=1", "loss.region_weight=0").returncode == 0
    start = f"checkpoint.start_from={first}/checkpoints"
    done = train(tmp_path / "region", shards, "schedule.epochs=1", start)
    assert done.returncode == 0, done.stderr
    assert "; new: loss.region_center, student.region_head, teacher.region_head" in done.stdout
    assert "region" in read_jsonl(tmp_path / "region" / "log.jsonl")[-1]


def test_a_backbone_with_larger_windows_starts_from_another_run_s(shards: str, tmp_path: Path) -> None:
    first = tmp_path / "view"
    assert train(first, shards, "schedule.epochs=1", "loss.region_weight=0").returncode == 0
    start = f"checkpoint.start_backbone_from={first}/checkpoints"
    done = train(tmp_path / "large", shards, "schedule.epochs=1", "model.backbone.window_size=8", start)
    assert done.returncode == 0, done.stderr
    assert f"starting with the backbone of {first}/checkpoints; resized: 2 tables of positions" in done.stdout
    both = train(tmp_path / "both", shards, start, f"checkpoint.start_from={first}/checkpoints")
    _assert_one_sentence(both, "leave start_backbone_from out")


def test_a_checkpoint_of_another_order_is_refused(shards: str, tmp_path: Path) -> None:
    assert train(tmp_path, shards, "schedule.epochs=1").returncode == 0
    _assert_one_sentence(train(tmp_path, shards, "schedule.epochs=2", "seed=7"), "seed was 0 in the checkpoint")


def test_a_mistyped_key_is_named(shards: str, tmp_path: Path) -> None:
    _assert_one_sentence(train(tmp_path, shards, "optim.clip_nrom=1"), "unknown config key 'optim.clip_nrom'")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    _assert_one_sentence(train(tmp_path / "run", str(tmp_path)), "manifest.json")


def test_a_truncated_shard_is_refused_by_name(shards: str, tmp_path: Path) -> None:
    copy = tmp_path / "truncated"
    shutil.copytree(shards, copy)
    for tar in copy.glob("*.tar"):
        tar.write_bytes(tar.read_bytes()[:-1024])
    done = train(tmp_path / "run", str(copy))
    _assert_one_sentence(done, "it was truncated or replaced")
    assert ".tar" in done.stderr


def test_an_unreachable_endpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(retry, "_PATIENCE_NEVER_REACHED_S", 0.5)
    monkeypatch.setattr(sys, "argv", command := train_command(tmp_path, "s3://bucket/shards"))
    with pytest.raises(SystemExit) as exit_info:
        main()
    done = subprocess.CompletedProcess(command, int(str(exit_info.value.code)), *capfd.readouterr())
    _assert_one_sentence(done, "127.0.0.1:9")


def test_an_occupied_metrics_port_is_named(shards: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _assert_one_sentence(train(tmp_path, shards, f"metrics.port={port}"), f"127.0.0.1:{port}")


def _assert_one_sentence(done: "subprocess.CompletedProcess[str]", part: str) -> None:
    """The command failed with one line on stderr that contains `part`, and without a traceback."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert part in lines[0]
