"""esvit-train: pre-train EsViT from shards.

    esvit-train --config configs/train/swin_tiny_w7.yaml --set data.stream.shards=s3://bucket/imagenet/train
    torchrun --nproc-per-node 8 -m esvit.train --config ...

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75.
"""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from esvit import checkpoint
from esvit.checkpoint import CheckpointConfig, TrainState
from esvit.distributed import World, world
from esvit.losses import EsvitLoss, LossConfig
from esvit.metrics import MetricsConfig, RunLog, run_log
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, apply_schedule, build_optimizer, clip_gradients, freeze_last_layers
from esvit.schedules import ScheduleConfig, Schedules, StepValues
from pipeline import config as configuration
from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.config import Config
from pipeline.errors import run_command
from pipeline.loader import DataConfig, ViewLoader, open_loader
from pipeline.store import Store
from pipeline.stream import open_training_stream

EXIT_RETRY = 75  # EX_TEMPFAIL: stopped by SIGTERM after a checkpoint; start the same command again


class TrainConfig(Config):
    """A pre-training run.

    Attributes:
        output: Local folder for the resolved config, the log and the metrics targets.
        global_batch: Images of one step over all ranks.
        precision: "bf16" runs the networks under autocast; losses and softmaxes stay in fp32.
    """

    output: str
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    global_batch: PositiveInt
    data: DataConfig
    augment: MultiCropConfig = MultiCropConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optim: OptimConfig = OptimConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()


def train(config: TrainConfig) -> int:
    """Run, or resume, the training that `config` describes. Returns the exit status."""
    output = Path(config.output)
    num_prototypes = config.model.head.num_prototypes
    with (
        world(config.device) as here,
        run_log(config.metrics, here, output, num_prototypes) as log,
        _loader(config, here) as loader,
        _sigterm() as stopped,
    ):
        if here.is_main:
            configuration.save(config, output / "config.yaml")
        schedules = Schedules(config.schedule, loader.steps_per_epoch, config.global_batch)
        state = _new_state(config, loader, here)
        checkpoints = Store(config.checkpoint.url or str(output / "checkpoints"))
        _restore(state, config, checkpoints, here, log)
        student = here.wrap(state.networks.student)
        save_every = config.checkpoint.every_steps or schedules.steps_per_epoch

        log.begin(state.step, schedules.num_steps)
        batches = iter(loader)
        while state.step < schedules.num_steps:
            with log.step() as timer:
                batch = timer.got(next(batches))
                torch.manual_seed(_step_seed(config.seed, state.step, here.rank))
                values = schedules.at(state.step)
                scalars = train_step(state, student, batch.views, values, config, batch.epoch)
                state.step += 1
            stopping = False
            if log.due(state.step, schedules.num_steps):
                log.log(state.step, state.step / schedules.steps_per_epoch, here.mean(scalars), values.lr)
                stopping = here.any(stopped.is_set)
            if state.step % save_every == 0 or state.step == schedules.num_steps or stopping:
                _save(state, checkpoints, config.checkpoint.keep_last, here, log)
            if stopping:
                log.say("stopped by SIGTERM after a checkpoint; the same command resumes")
                return EXIT_RETRY
    return 0


def train_step(
    state: TrainState,
    student: nn.Module,
    views: list[Tensor],
    values: StepValues,
    config: TrainConfig,
    epoch: int,
) -> dict[str, Tensor]:
    """One optimisation step on the views of this rank.

    Args:
        student: The student as the gradients see it: wrapped for DDP, if distributed.
        views: One tensor [V, B, 3, H, W] a size; the teacher sees the first.

    Returns:
        This rank's scalars, still on the device: "loss", its terms, "teacher_entropy" and "gradient_norm".
    """
    networks, optimizer = state.networks, state.optimizer
    apply_schedule(optimizer, values.lr, values.weight_decay)
    with torch.autocast(views[0].device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        with torch.no_grad():
            targets = networks.teacher(views[:1])
        predictions = student(views)
        scalars = state.loss(predictions, targets, values.teacher_temperature)
    optimizer.zero_grad()
    scalars["loss"].backward()
    norm = clip_gradients(networks.student.parameters(), config.optim.clip_norm, config.optim.clip)
    if epoch < config.optim.freeze_last_layer_epochs:
        freeze_last_layers(networks.student)
    optimizer.step()
    networks.update_teacher(values.momentum)
    return {**scalars, "gradient_norm": norm}


def _loader(config: TrainConfig, here: World) -> ViewLoader:
    stream = open_training_stream(config.data.stream, config.seed, config.global_batch, here.rank, here.size)
    return open_loader(stream, MultiCrop(config.augment, config.seed), config.data, here.device)


def _new_state(config: TrainConfig, loader: ViewLoader, here: World) -> TrainState:
    """Networks at their initialisation, equal on every rank."""
    torch.manual_seed(config.seed)
    networks = StudentTeacher(config.model, with_regions=config.loss.region_weight > 0).to(here.device)
    return TrainState(
        networks=networks,
        loss=EsvitLoss(config.loss, config.model.head.num_prototypes).to(here.device),
        optimizer=build_optimizer(networks.student, config.optim),
        loader=loader,
        config=config.model_dump(mode="json"),
    )


def _restore(state: TrainState, config: TrainConfig, checkpoints: Store, here: World, log: RunLog) -> None:
    """Resume this run, or start from another run's checkpoint, or from nothing."""
    found = checkpoint.names(checkpoints)
    here.barrier()  # nobody writes the first checkpoint before everybody has looked
    if found:
        state.resume(checkpoint.load(f"{checkpoints.url}/{found[-1]}"))
        log.say(f"resuming from {checkpoints.url}/{found[-1]}")
        return
    if config.checkpoint.start_from:
        fresh = state.start_from(checkpoint.load(config.checkpoint.start_from))
        log.say(f"starting from {config.checkpoint.start_from}" + (f"; new: {_summary(fresh)}" if fresh else ""))
    _save(state, checkpoints, config.checkpoint.keep_last, here, log)


def _summary(parameter_names: list[str]) -> str:
    """The modules of these parameters, two levels deep."""
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in parameter_names}))


def _save(state: TrainState, checkpoints: Store, keep_last: int, here: World, log: RunLog) -> None:
    if here.is_main:
        name = checkpoint.save(state, checkpoints, keep_last)
        log.say(f"saved {checkpoints.url}/{name}")


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Drop path draws from a generator that depends on nothing but the place in the run, so a resume repeats it."""
    return (seed * 1_000_003 + step) * 65_537 + rank


class _Stop:
    is_set = False


@contextmanager
def _sigterm() -> Iterator[_Stop]:
    """A flag that SIGTERM raises, as schedulers send it before they take a machine away."""
    stop = _Stop()

    def handle(*_: object) -> None:
        stop.is_set = True

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_arguments() -> TrainConfig:
    """The config that the command line describes."""
    parser = argparse.ArgumentParser(description="Pre-train EsViT from shards.")
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="YAML; later files win")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as data.num_threads=8")
    arguments = parser.parse_args()
    return configuration.load(TrainConfig, arguments.config, arguments.set)


def main() -> None:
    """Console script `esvit-train`."""
    run_command(lambda: train(parse_arguments()))


if __name__ == "__main__":
    main()
