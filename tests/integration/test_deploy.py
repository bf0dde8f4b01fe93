"""Container, Kubernetes, SkyPilot and Slurm files, checked by their own schemas and against our command lines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from esvit.train import TrainConfig
from pipeline import config as configuration
from support.training import BIN, REPOSITORY

DEPLOY = REPOSITORY / "configs/deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
TRAIN_FILES = [DEPLOY / "kubernetes/train-job.yaml", DEPLOY / "skypilot/train.yaml", DEPLOY / "slurm/train.sbatch"]


def _run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def _name(path: Path) -> str:
    return path.parent.name


def test_dockerfile_has_no_lint() -> None:
    done = _run(BIN / "hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_fit_kubernetes_schema(path: Path) -> None:
    done = _run(BIN / "kubernetes-validate", "--strict", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_exposes_one_metrics_port_a_process() -> None:
    _, job = yaml.safe_load_all((DEPLOY / "kubernetes/train-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["args"]
    assert "--set=metrics.port=9400" in container["args"]
    ports = [(port["name"], port["containerPort"]) for port in container["ports"]]
    assert ports == [(f"metrics-{rank}", 9400 + rank) for rank in range(gpus)]


def test_task_fits_skypilot_schema(sky_python: Path, tmp_path: Path) -> None:
    code = "import sys, sky; print(sky.Task.from_yaml(sys.argv[1]).num_nodes)"
    quiet = {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = _run(sky_python, "-c", code, DEPLOY / "skypilot/train.yaml", **quiet)
    assert done.stdout.strip() == "2", done.stderr


@pytest.mark.parametrize("path", [DEPLOY / "slurm/train.sbatch", REPOSITORY / ".ci/run"], ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    assert _run("bash", "-n", path).stderr == ""


@pytest.mark.parametrize("path", TRAIN_FILES, ids=_name)
def test_training_commands_are_ones_that_esvit_train_takes(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    files, overrides = (re.findall(rf"--{flag}=([^\s'\\]+)", "\n".join(lines)) for flag in ("config", "set"))
    assert files and overrides
    plain = [re.sub(r"\$\w+|\$\{.*?\}", "x", override).replace('"', "") for override in overrides]
    configuration.load(TrainConfig, [REPOSITORY / file for file in files], plain)


def test_torchrun_takes_the_options_of_the_training_commands() -> None:
    known = _run(sys.executable, "-m", "torch.distributed.run", "--help").stdout
    used = {
        option
        for path in TRAIN_FILES
        for option in re.findall(r"(--[\w-]+)=", path.read_text().partition("torchrun ")[2].partition("-m")[0])
    }
    assert [option for option in sorted(used) if option not in known] == []


def test_shards_job_is_a_command_that_shard_builder_takes() -> None:
    job = yaml.safe_load((DEPLOY / "kubernetes/shards-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    known = _run(BIN / "shard-builder", "build", "--help").stdout
    assert container["args"][:2] == ["shard-builder", "build"]
    assert [flag for flag in container["args"][2:] if flag.partition("=")[0] not in known] == []
