"""Pre-training, told from start to end: `train(config)`.

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and ends it with 75.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from esvit.checkpoints import files, source
from esvit.checkpoints.keeping import CheckpointConfig, Checkpointer
from esvit.distributed import World, world
from esvit.guards import CollapseDetector, DivergedError, FiniteGuard, GuardConfig, cautions
from esvit.losses import EsvitLoss, LossConfig
from esvit.metrics import MetricsConfig, RunLog, run_log
from esvit.mixup import MixupConfig
from esvit.models.student_teacher import ModelConfig, StudentTeacher
from esvit.optim import OptimConfig, build_optimizer
from esvit.schedules import ScheduleConfig, Schedules
from esvit.state import TrainState
from esvit.step import Precision, StepSettings, train_step
from pipeline import config as configuration
from pipeline.augment import MultiCrop, MultiCropConfig
from pipeline.command import EXIT_RETRY
from pipeline.config import Config
from pipeline.loader import DataConfig, ViewLoader, open_loader
from pipeline.store import Store
from pipeline.stream import open_training_stream


class TrainConfig(Config):
    """A pre-training run.

    Attributes:
        output: Local folder for the resolved config, the log and the metrics targets.
        global_batch: Images of one step over all ranks.
        accumulation: Parts in which every rank works through its images of one step, to save memory.
        precision: "bf16" and "fp16" run the networks under autocast; losses and softmaxes stay in fp32.
    """

    output: str
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "fp32"
    global_batch: PositiveInt
    accumulation: PositiveInt = 1
    data: DataConfig
    augment: MultiCropConfig = MultiCropConfig()
    mixup: MixupConfig = MixupConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optim: OptimConfig = OptimConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guards: GuardConfig = GuardConfig()
    metrics: MetricsConfig = MetricsConfig()


def train(config: TrainConfig) -> int:
    """Run, or resume, the training that `config` describes. Returns the exit status."""
    num_prototypes = config.model.head.num_prototypes
    with (
        world(config.device) as here,
        run_log(config.metrics, here, Path(config.output), num_prototypes) as log,
        _loader(config, here) as loader,
        _checkpointer(config, steps_per_epoch(config, loader), log) as checkpoints,
        _sigterm() as stopped,
    ):
        settings = StepSettings(config.optim, config.precision, config.accumulation)
        settings.check_batch(config.global_batch, here.size)
        schedules = Schedules(config.schedule, steps_per_epoch(config, loader), config.global_batch)
        _introduce(config, schedules, loader, here, log)
        state = _new_state(config, loader, here)
        _restore(state, config, checkpoints, here, log)
        here.synchronise_batch_norms(state.networks)
        student = here.wrap(state.networks.student)
        guard, collapse = FiniteGuard(here.device), CollapseDetector(config.guards, num_prototypes)
        losses: list[Tensor] = []  # since the newest checkpoint
        signs: list[str] = []

        log.begin(state.step, schedules.num_steps)
        batches = iter(loader)
        while state.step < schedules.num_steps:
            with log.step() as timer:
                batch = timer.got(next(batches))
                torch.manual_seed(_step_seed(config.seed, state.step, here.rank))
                values, blend = schedules.at(state.step), config.mixup.blend(config.seed, state.step)
                epoch = state.step // schedules.steps_per_epoch
                scalars = train_step(
                    state, student, batch.views, values, settings, epoch=epoch, guard=guard, blend=blend
                )
                losses.append(scalars["loss"])
                state.step += 1
            stopping, saving = False, checkpoints.due(state.step, schedules.num_steps)
            logging = log.due(state.step, schedules.num_steps)
            if logging or saving:  # the only moments at which the host waits for the device
                _stop_if_diverged(state, guard, config, here)
            if logging:
                scalars["center_drift"] = collapse.center_drift(state.loss, values.teacher_temperature)
                means = here.mean(scalars)
                log.log(state.step, state.step / schedules.steps_per_epoch, means, values.lr)
                signs = _changed(signs, collapse.observe(means), log)
                stopping = here.any(stopped.is_set)
            if saving or stopping:
                _save(state, checkpoints, here, losses, healthy=not signs)
                losses.clear()
            if stopping:
                checkpoints.wait()
                log.say("stopped by SIGTERM after a checkpoint; the same command resumes")
                return EXIT_RETRY
        checkpoints.wait()
    return 0


def _loader(config: TrainConfig, here: World) -> ViewLoader:
    stream = open_training_stream(config.data.stream, config.seed, config.global_batch, here.rank, here.size)
    return open_loader(stream, MultiCrop(config.augment, config.seed), config.data, here.device)


def steps_per_epoch(config: TrainConfig, loader: ViewLoader) -> int:
    """Steps of an epoch: one pass over the data, unless the schedule says how many."""
    return config.schedule.epoch_steps or loader.steps_per_epoch


def _checkpointer(config: TrainConfig, epoch_steps: int, log: RunLog) -> Checkpointer:
    store = Store(config.checkpoint.url or str(Path(config.output) / "checkpoints"))
    return Checkpointer(config.checkpoint, store, epoch_steps, log.say)


def _introduce(config: TrainConfig, schedules: Schedules, loader: ViewLoader, here: World, log: RunLog) -> None:
    """Write down what is going to run, and say what looks like a mistake in it."""
    if here.is_main:
        configuration.save(config, Path(config.output) / "config.yaml")
    num_prototypes = config.model.head.num_prototypes
    for caution in cautions(schedules.peak_lr, config.global_batch, num_prototypes, loader.num_samples):
        log.say(caution)


def _new_state(config: TrainConfig, loader: ViewLoader, here: World) -> TrainState:
    """Networks at their initialisation, equal on every rank."""
    torch.manual_seed(config.seed)
    networks = StudentTeacher(config.model, with_regions=config.loss.region_weight > 0).to(here.device)
    return TrainState(
        networks=networks,
        loss=EsvitLoss(config.loss, config.model.head.num_prototypes).to(here.device),
        optimizer=build_optimizer(networks.student, config.optim),
        scaler=torch.amp.GradScaler(here.device.type, enabled=config.precision == "fp16"),
        loader=loader,
        config=config.model_dump(mode="json"),
    )


def _restore(state: TrainState, config: TrainConfig, checkpoints: Checkpointer, here: World, log: RunLog) -> None:
    """Resume this run, or start from another run's checkpoint, or from nothing."""
    store = checkpoints.store
    found = files.newest(store, log.say) if here.is_main else None
    name = here.from_main(found[0] if found else "")  # all ranks from the same one, and none before it is verified
    if name:
        changed = state.resume(found[1] if found else files.read(store, name))
        log.say(f"resuming from {store.url}/{name}")
        if changed:
            log.say(f"caution: these settings are not those of the checkpoint: {', '.join(changed)}")
    elif config.checkpoint.start_from:
        fresh = state.start_from(source.load(config.checkpoint.start_from, log.say))
        log.say(f"starting from {config.checkpoint.start_from}" + (f"; new: {_summary(fresh)}" if fresh else ""))
    elif config.checkpoint.start_backbone_from:
        resized = state.start_backbone_from(source.load(config.checkpoint.start_backbone_from, log.say))
        how = f"; resized: {len(resized)} tables of positions" if resized else ""
        log.say(f"starting with the backbone of {config.checkpoint.start_backbone_from}{how}")
    if here.is_main:
        checkpoints.continue_after(state.step if name else -1)
    if not name:
        _save(state, checkpoints, here, [], healthy=True)


def _summary(parameter_names: list[str]) -> str:
    """The modules of these parameters, two levels deep."""
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in parameter_names}))


def _save(state: TrainState, checkpoints: Checkpointer, here: World, losses: list[Tensor], healthy: bool) -> None:
    loss = here.mean({"loss": torch.stack(losses).mean()})["loss"] if losses else None
    if here.is_main:
        checkpoints.save(state.state_dict(), loss, healthy)


def _stop_if_diverged(state: TrainState, guard: FiniteGuard, config: TrainConfig, here: World) -> None:
    """Raise `DivergedError` after a step that was not finite, with the state before it saved for a replay."""
    step = guard.first_failure(here)
    if step is None:
        return
    folder = Path(config.output) / "failed"
    if here.is_main:
        saved = state.state_dict()
        saved["step"] = saved["loader"]["position"] = step
        files.write(Store(folder), saved)
    here.barrier()
    raise DivergedError(
        f"the loss or a gradient of step {step + 1} is not finite; the state before that step is in {folder}, and the "
        f"same command with --set checkpoint.url={folder} --set metrics.log_every_steps=1 replays it"
    )


def _changed(before: list[str], signs: list[str], log: RunLog) -> list[str]:
    """Say which signs of collapse are new, and that they are over."""
    for sign in signs:
        if sign not in before:
            log.say(f"collapse: {sign}")
    if before and not signs:
        log.say("collapse: over")
    return signs


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
