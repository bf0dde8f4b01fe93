"""Container, Kubernetes, SkyPilot and Slurm files, checked by their own schemas and against our command lines."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from esvit.training.loop import TrainConfig
from pipeline import config as configuration
from support.training import BIN, REPOSITORY

DEPLOY = REPOSITORY / "configs/deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
TRAIN_FILES = [DEPLOY / "kubernetes/train-job.yaml", DEPLOY / "skypilot/train.yaml", DEPLOY / "slurm/train.sbatch"]


def _run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


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


@pytest.mark.parametrize("path", TRAIN_FILES, ids=lambda path: path.parent.name)
def test_training_commands_parse(path: Path) -> None:
    launch, ours = _training_command(path)
    assert get_args_parser().parse_args(launch).training_script == "esvit.train"
    files, overrides = (
        [word.removeprefix(flag) for word in ours if word.startswith(flag)] for flag in ("--config=", "--set=")
    )
    assert files and len(overrides) >= 4
    configuration.load(TrainConfig, [REPOSITORY / file for file in files], overrides)


def _training_command(path: Path) -> tuple[list[str], list[str]]:
    """The words after `torchrun`, up to our module and behind it; "x" for what the shell fills in."""
    text = re.sub(r"(^|\s)#.*", "", path.read_text())
    text = re.sub(r"\$\(.*?\)|\$\{.*?\}|\$\w+", "x", text)
    words = [word for word in re.sub(r"[\"'\\]", "", text).split() if word != "-"]
    begin = next(i for i, word in enumerate(words) if word.endswith("torchrun"))
    end = words.index("esvit.train") + 1
    return words[begin + 1 : end], words[end:]


def test_shards_job_is_a_command_that_shard_builder_takes() -> None:
    job = yaml.safe_load((DEPLOY / "kubernetes/shards-job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    known = _run(BIN / "shard-builder", "build", "--help").stdout
    assert container["args"][:2] == ["shard-builder", "build"]
    assert [flag for flag in container["args"][2:] if flag.partition("=")[0] not in known] == []
