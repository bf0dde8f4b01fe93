"""Start a run: first every check that can refuse the run, on all ranks; only then the first file is written.

The checks: data, batch and ranks, networks, metrics port, output folder, what the ranks have read, checkpoints. The
first file is the lease of the run on its places.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from esvit import records
from esvit.checkpoints import files, resuming, source
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.keeping import CheckpointConfig, Checkpointer
from esvit.checkpoints.lease import RunLeases
from esvit.checkpoints.resuming import Found
from esvit.distributed import World
from esvit.guards import cautions
from esvit.losses import build_loss
from esvit.metrics import OutputError, RunLog, run_log
from esvit.models.student_teacher import StudentTeacher
from esvit.optim import build_optimizer
from esvit.schedules import Schedules
from esvit.state import TrainState
from esvit.step import StepSettings
from esvit.training.agreement import agree, digest_of, facts_of
from esvit.training.config import TrainConfig
from pipeline import config as configuration
from pipeline.augment import MultiCrop
from pipeline.errors import UserError
from pipeline.loader import ViewLoader, open_loader
from pipeline.store import Store
from pipeline.store.probe import overwrites
from pipeline.stream import open_training_stream


@dataclass(frozen=True)
class Run:
    """A run that has passed all checks."""

    state: TrainState
    loader: ViewLoader
    schedules: Schedules
    settings: StepSettings
    checkpoints: Checkpointer
    log: RunLog
    leases: RunLeases


@contextmanager
def started(config: TrainConfig, here: World) -> Iterator[Run]:
    """A new run, or this one resumed, with its log and its first checkpoint written.

    Raises:
        UserError: the run cannot start. Nothing was written.
    """
    output = Path(config.output)
    with ExitStack() as stack:
        with here.together():
            settings = step_settings(config, here)
            loader = stack.enter_context(loader_of(config, here))
            schedules = Schedules(config.schedule, steps_per_epoch(config, loader), config.global_batch)
            state = new_state(config, loader, here)
            check_writable(output)
            store = store_of(config)
            leases = stack.enter_context(RunLeases(store, Store(output)))
            log = stack.enter_context(run_log(config.metrics, here, output, config.model.head.num_prototypes))
            per_epoch, check = schedules.steps_per_epoch, leases.check_checkpoints
            checkpoints = Checkpointer(config.checkpoint, store, per_epoch, log.say, check)
        agree(here, facts_of(config, loader))
        run = Run(state, loader, schedules, settings, stack.enter_context(checkpoints), log, leases)
        found = _restore(run, config, here)
        with here.together():
            if here.is_main:
                _take(run, config, here, found)
        try:
            with here.together():
                _write_first(run, config, here, found)
        except UserError:
            log.withdraw()
            raise
        yield run


def step_settings(config: TrainConfig, here: World) -> StepSettings:
    """The settings shared by all steps.

    Raises:
        UserError: the ranks cannot divide the batch.
    """
    settings = StepSettings(config.optim, config.precision, config.accumulation)
    settings.check_batch(config.global_batch, here.size)
    return settings


def loader_of(config: TrainConfig, here: World) -> ViewLoader:
    """The views of this rank.

    Raises:
        UserError: a data set cannot be opened, or does not fit batch and lanes; the executor cannot run here.
    """
    stream = open_training_stream(config.data.stream, config.seed, config.global_batch, here.rank, here.size)
    return open_loader(stream, MultiCrop(config.augment, config.seed), config.data, here.device)


def steps_per_epoch(config: TrainConfig, loader: ViewLoader) -> int:
    """Steps of an epoch: one pass over the data, unless the schedule says how many."""
    return config.schedule.epoch_steps or loader.steps_per_epoch


def new_state(config: TrainConfig, loader: ViewLoader, here: World) -> TrainState:
    """Freshly initialised networks, equal on all ranks."""
    torch.manual_seed(config.seed)
    networks = StudentTeacher(config.model, with_regions=config.loss.region_weight > 0).to(here.device)
    return TrainState(
        networks=networks,
        loss=build_loss(config.loss, config.model.head.num_prototypes).to(here.device),
        optimizer=build_optimizer(networks.student, config.optim),
        scaler=torch.amp.GradScaler(here.device.type, enabled=config.precision == "fp16"),
        loader=loader,
        config=config.model_dump(mode="json"),
    )


def store_of(config: TrainConfig) -> Store:
    """The store of this run's checkpoints."""
    return Store(config.checkpoint.url or str(Path(config.output) / "checkpoints"))


def check_writable(folder: Path) -> None:
    """Raise `OutputError` if the folder cannot be created or written; creates nothing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"cannot write the output folder {folder}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write the output folder {folder}: no permission to write in {existing}")


def _restore(run: Run, config: TrainConfig, here: World) -> Found | None:
    """Resume this run, or start from another run's checkpoint, or fresh. Returns what the main rank resumes from."""
    state, store, log = run.state, run.checkpoints.store, run.log
    with here.together():
        found = resuming.to_resume(store, log.say) if here.is_main else None
    name = here.from_main(found.name if found else "")  # all ranks read the one that the main rank has verified
    url = config.checkpoint.start_from or config.checkpoint.start_backbone_from
    with here.together():
        if name:
            url, saved = f"{store.url}/{name}", found.saved if found else files.read(store, name)
        else:
            saved = source.load(url, log.say) if url else {}
    agree(here, {f"checkpoint {url}": digest_of(saved)} if here.size > 1 else {})
    with here.together():
        if name:
            changed = state.resume(saved, regions_begun=saved["step"] >= run.schedules.region_start_step)
            _check_step(state.step, run.schedules, url)
            log.say(f"resuming from {url}")
            if changed:
                log.say(f"caution: these settings differ from the checkpoint's: {', '.join(changed)}")
        elif config.checkpoint.start_from:
            _start_from(run, config.checkpoint, saved)
        elif url:
            resized = state.start_backbone_from(saved)
            how = f"; resized: {len(resized)} tables of positions" if resized else ""
            log.say(f"starting with the backbone of {url}{how}")
        if here.is_main and not found and not config.checkpoint.allow_start_over:
            resuming.refuse_start_over(store, Path(config.output), state.step)
    return found


def _start_from(run: Run, config: CheckpointConfig, saved: dict[str, Any]) -> None:
    """Take over another run's checkpoint, at the epoch that is asked for."""
    step, log = config.start_epoch * run.schedules.steps_per_epoch, run.log
    fresh = run.state.start_from(saved, step, regions_begun=step >= run.schedules.region_start_step)
    new = f"; new: {_summary(fresh)}" if fresh else ""
    log.say(f"starting from {config.start_from} at epoch {config.start_epoch}{new}")
    if (trained := saved.get("epoch", config.start_epoch)) != config.start_epoch:
        log.say(f"caution: it was trained for {trained} epochs; checkpoint.start_epoch={trained} goes on from there")


def _check_step(step: int, schedules: Schedules, name: str) -> None:
    """Raise `CheckpointError` for a checkpoint after the end of the run."""
    if step > schedules.num_steps:
        raise CheckpointError(
            f"checkpoint {name} is beyond the end of this run, which has {schedules.num_steps} steps; "
            f"raise schedule.epochs from {schedules.config.epochs}, or use another output folder for a new run"
        )


def _take(run: Run, config: TrainConfig, here: World, found: Found | None) -> None:
    """Take the places of this run, and make them ready to go on from `found`. From here on, files are written.

    Raises:
        OutputHeldError: another run is there.
        CheckpointError: another run was there a moment ago.
        OutputError: the output folder cannot be written.
    """
    output, store = Path(config.output), run.checkpoints.store
    run.leases.take(run.log.say)
    resuming.check_unchanged(store, found)
    if found:
        resuming.set_aside(store, found, run.log.say)
    elif not config.checkpoint.allow_start_over:
        return  # there are no records
    try:
        records.cut_back(output, run.state.step, run.loader.steps_per_epoch, here.size)
    except OSError as error:
        raise OutputError(f"cannot write the output folder {output}: {error.strerror}") from None


def _summary(parameter_names: list[str]) -> str:
    """The modules of these parameters, two levels deep."""
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in parameter_names}))


def _write_first(run: Run, config: TrainConfig, here: World, found: Found | None) -> None:
    """Write the first checkpoint before all else, so that a store without write access refuses the run now; then log,
    target and config."""
    state, checkpoints, log = run.state, run.checkpoints, run.log
    if here.is_main:
        if overwrites(checkpoints.store):
            log.say(
                f"caution: {checkpoints.store.url} replaces objects that exist (it ignores If-None-Match), so it does "
                "not keep two runs apart: make sure that no other run writes its checkpoints there now"
            )
        checkpoints.continue_after(state.step if found else -1)
        if not found:
            checkpoints.save(state.state_dict())
            checkpoints.wait()
    log.begin(state.step, run.schedules.num_steps)
    if here.is_main:
        path = Path(config.output) / "config.yaml"
        try:
            configuration.save(config, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from None
    num_prototypes, num_samples = config.model.head.num_prototypes, run.loader.num_samples
    for caution in cautions(run.schedules.peak_lr, config.global_batch, num_prototypes, num_samples):
        log.say(caution)
