"""esvit-train as a person uses it: looks before it runs, is stopped by Ctrl-C, says how long it takes."""

import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from esvit.checkpoints import files
from pipeline.store import Store
from support import forking
from support.training import begin, environment, read_jsonl, train, train_command

pytestmark = pytest.mark.slow


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return forking.run(["esvit-train", *words], environment(), folder)


def test_a_preset_is_printed_from_any_folder_and_can_be_fed_back(tmp_path: Path) -> None:
    printed = run(tmp_path, "--config", "swin_tiny_w7", "--set", "schedule.epochs=6", "--print-config")
    assert printed.returncode == 0, printed.stderr
    config = yaml.safe_load(printed.stdout)
    assert config["schedule"] == {**config["schedule"], "epochs": 6, "warmup_epochs": 2}
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine.yaml").write_text(printed.stdout)
    assert run(tmp_path, "--config", "mine.yaml", "--print-config").stdout == printed.stdout


def test_a_mistyped_word_gets_a_suggestion(tmp_path: Path) -> None:
    done = run(tmp_path, "--config", "swin_tny_w7", "--print-config")
    assert done.returncode == 2 and "did you mean 'swin_tiny_w7'" in done.stderr and done.stderr.count("\n") == 1
    done = run(tmp_path, "--config", "swin_tiny_w7", "--set", "optim.base_lr=1", "--print-config")
    assert done.stderr == "error: unknown config key 'optim.base_lr'; did you mean 'schedule.base_lr'?\n"


def test_a_check_says_what_a_run_takes_and_writes_nothing(shards: str, tmp_path: Path) -> None:
    words = ("--config", "digits_view", "--set", f"data.stream.shards={shards}", "--set", "global_batch=12", "--check")
    (here := tmp_path / "here").mkdir()
    done = run(here, *words)
    assert done.returncode == 0, done.stderr
    assert "36 images in 8 shards" in done.stdout
    assert "60 in all: 3 per epoch, 20 epochs, 12 images per step on 1 rank" in done.stdout
    assert re.search(r"memory +of each rank about [\d.]+ MB", done.stdout)
    assert re.search(r"time +about [\d.]+ (minutes|hours) on cpu", done.stdout)
    assert done.stdout.endswith("Nothing was trained, and nothing was written to runs/digits-view.\n")
    report = json.loads(run(here, *words, "--json").stdout)
    assert report["steps"]["num_steps"] == 60 and report["data"][0]["num_samples"] == 36
    assert report["memory"]["resident_bytes"] > 1e6 and report["time"]["seconds"] > 0
    assert not list(here.iterdir())
    refused = run(here, *words, "--set", "data.stream.shards=nowhere")
    assert refused.returncode == 2 and "nowhere holds no manifest.json" in refused.stderr


def test_a_log_without_a_terminal_says_how_far_the_run_is(shards: str, tmp_path: Path) -> None:
    done = train(tmp_path, shards, "schedule.epochs=2")
    places = re.findall(r"^step (\d+) of 8  ETA (\d+:\d\d:\d\d)  epoch ", done.stdout, re.MULTILINE)
    assert [int(step) for step, _ in places] == list(range(1, 9)) and places[-1][1] == "0:00:00"


def _interrupt(log: Path, command: list[str]) -> tuple[int, str]:
    """Send SIGINT once two steps are logged; the exit status and all that was said."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as process:
        deadline_s = time.monotonic() + 120
        while not log.exists() or len(read_jsonl(log)) < 2:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_ctrl_c_saves_and_the_same_command_resumes(shards: str, tmp_path: Path, num_ranks: int) -> None:
    log, endless = tmp_path / "log.jsonl", ("schedule.epochs=400", "checkpoint.every_steps=9999")
    status, said = _interrupt(log, train_command(tmp_path, shards, *endless, num_ranks=num_ranks))
    assert status == (130 if num_ranks == 1 else 1), said  # torchrun has one status for all failures
    newest = files.names(Store(tmp_path / "checkpoints"))[-1]
    step = int(newest.removeprefix("step-").removesuffix(".pt"))
    assert step == read_jsonl(log)[-1]["step"] > 1
    assert f"stopped by Ctrl-C after the checkpoint of step {step}; the same command resumes" in said
    assert "Ctrl-C again ends the run at once" in said
    assert not list((tmp_path / "targets").iterdir())
    with begin(tmp_path, shards, *endless, num_ranks=num_ranks) as again:
        deadline_s = time.monotonic() + 60
        while f"resuming from {tmp_path}/checkpoints/{newest}" not in again.stdout:
            assert again.is_running() and time.monotonic() < deadline_s
            time.sleep(0.05)


def test_a_port_that_is_taken_on_one_rank_refuses_all(shards: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = train(tmp_path / "run", shards, f"metrics.port={port - 1}", num_ranks=2)
    assert done.returncode != 0
    assert f"error: metrics endpoint cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "run").exists()
