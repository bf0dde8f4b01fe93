"""Training from a real S3 server: scraped, killed, resumed, and no sample lost or repeated."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.training import begin, build_shards, train, trained_samples

pytestmark = [pytest.mark.slow, pytest.mark.s3]

SETTINGS = ("schedule.epochs=6", "checkpoint.every_steps=4")
NUM_STEPS = 24  # 36 images, 8 a step, 6 epochs


def test_a_killed_run_resumes_from_s3_with_the_same_samples(
    tiny_image_folder: Path, s3_server: Any, tmp_path: Path
) -> None:
    url, env = s3_server.new_url(), s3_server.env
    shards = f"{url}/shards"
    build_shards(tiny_image_folder, shards, env)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, shards, *SETTINGS, num_ranks=2, env=env).returncode == 0
    expected = trained_samples(whole, 2)
    assert len(expected) == NUM_STEPS

    settings = (*SETTINGS, f"checkpoint.url={url}/checkpoints")
    with begin(parts, shards, *settings, num_ranks=2, env=env) as run:
        scraped = _scrape_until_step(parts / "targets", 5)
        os.kill(run.pids[1], signal.SIGKILL)
        done = run.end()
    assert done.returncode != 0, done.stderr
    assert _value(scraped, "esvit_loader_samples_total") >= 5 * 4
    assert _value(scraped, "esvit_loader_wait_seconds_count") >= 5
    assert _value(scraped, "esvit_train_step_seconds_sum") > _value(scraped, "esvit_loader_wait_seconds_sum")
    killed_after = len(trained_samples(parts, 2))
    assert 5 <= killed_after < NUM_STEPS

    done = train(parts, shards, *settings, num_ranks=2, env=env)
    assert done.returncode == 0, done.stderr
    assert f"resuming from {url}/checkpoints/step-" in done.stdout
    assert trained_samples(parts, 2) == expected


def _scrape_until_step(targets: Path, step: int) -> str:
    """The metrics page of rank 1, found through its target file, once it has trained `step` steps."""
    deadline = time.monotonic() + 120
    page = ""
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if (target := targets / "rank-1.json").exists():
            address = json.loads(target.read_text())[0]["targets"][0]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                page = response.read().decode()
            if _value(page, "esvit_train_steps_total") >= step:
                return page
    raise TimeoutError(page)


def _value(page: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in page.splitlines() if line.split(" ")[0] == name)
