"""The training loop, from start to end: `train(config)`.

A run that finds checkpoints in its own checkpoint folder resumes from the newest. SIGTERM saves and exits with 75,
Ctrl-C saves and exits with 130.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from esvit.checkpoints import files
from esvit.checkpoints.keeping import Checkpointer
from esvit.distributed import World, world
from esvit.guards import CollapseDetector, DivergedError, FiniteGuard
from esvit.metrics import RunLog
from esvit.schedules import Schedules
from esvit.state import TrainState
from esvit.step import train_step
from esvit.training.callbacks import Callbacks, CheckpointEvent, StepEvent
from esvit.training.config import TrainConfig
from esvit.training.start import started
from esvit.training.stopping import Stop, stopping
from pipeline.store import Store

__all__ = ["TrainConfig", "train"]

_NO_CALLBACKS = Callbacks()


def train(config: TrainConfig, callbacks: Callbacks = _NO_CALLBACKS) -> int:
    """Run, or resume, the training that `config` describes. Returns the exit status."""
    with world(config.device) as here, stopping(here) as stop, started(config, here) as run, stop.loop():
        state, schedules, checkpoints, log = run.state, run.schedules, run.checkpoints, run.log
        here.synchronise_batch_norms(state.networks)
        student = _student(state, schedules, here)
        guard, collapse = FiniteGuard(here.device), CollapseDetector(config.guards, config.model.head.num_prototypes)
        losses: list[Tensor] = []  # since the newest checkpoint
        signs: list[str] = []
        batches, stopped = run.loader.forever(stop.ends_wait), False
        while state.step < schedules.num_steps:
            if state.step == schedules.region_start_step:
                del student  # with it go the hooks that it has in the parameters
                student = _student(state, schedules, here)
            with log.step() as timer:
                if (batch := next(batches, None)) is None:  # a signal came, and no batch
                    _leave(here, stop, state.step + 1)
                    break
                timer.got(batch)
                torch.manual_seed(_step_seed(config.seed, state.step, here.rank))
                values, blend = schedules.at(state.step), config.mixup.blend(config.seed, state.step)
                epoch = state.step // schedules.steps_per_epoch
                scalars = train_step(
                    state, student, batch.views, values, run.settings, epoch=epoch, guard=guard, blend=blend
                )
                losses.append(scalars["loss"])
                state.step += 1
            if callbacks.on_step:
                place = state.step / schedules.steps_per_epoch
                callbacks.on_step(StepEvent(state.step, schedules.num_steps, place, scalars, state))
            logging = log.due(state.step, schedules.num_steps)
            stopped = stop.agreed(now=logging)
            saving = stopped or checkpoints.due(state.step, schedules.num_steps)
            if logging or saving:  # the only moments at which the host waits for the device
                with here.together():
                    run.leases.check_log()
                _stop_if_diverged(state, guard, config, here)
            if logging:
                scalars["center_drift"] = collapse.center_drift(state.loss, values.teacher_temperature)
                means = here.mean(scalars)
                log.log(state.step, state.step / schedules.steps_per_epoch, means, values.lr)
                signs = _changed(signs, collapse.observe(means), log)
            if saving:
                _save(state, checkpoints, here, losses, healthy=not signs)
                losses.clear()
            if stopped or state.step == schedules.num_steps:
                checkpoints.wait()
            _tell(callbacks, checkpoints)
            if stopped:
                break
        else:
            return 0
        if not stopped:
            _stop_if_diverged(state, guard, config, here)
            if losses:
                _save(state, checkpoints, here, losses, healthy=not signs)
            checkpoints.wait()
            _tell(callbacks, checkpoints)
        log.say(f"stopped by {stop.cause} after the checkpoint of step {state.step}; the same command resumes")
        return stop.status


def _student(state: TrainState, schedules: Schedules, here: World) -> nn.Module:
    """The student as the gradients see it in the phase of the next step, with regions or without."""
    state.networks.use_regions(state.step >= schedules.region_start_step)
    return here.wrap(state.networks.student)


def _save(state: TrainState, checkpoints: Checkpointer, here: World, losses: list[Tensor], healthy: bool) -> None:
    loss = here.mean({"loss": torch.stack(losses).mean()})["loss"]
    if here.is_main:
        checkpoints.save(state.state_dict(), loss, healthy)


def _leave(here: World, stop: Stop, step: int) -> None:
    """One of several ranks leaves instead of waiting for its batch of `step`: the others have begun that step."""
    if here.size > 1:
        sys.stderr.write(
            f"stopped by {stop.cause}: rank {here.rank} has no batch for step {step}, so all ranks end without a new "
            "checkpoint; the same command resumes from the newest one\n"
        )
        raise SystemExit(stop.status)


def _tell(callbacks: Callbacks, checkpoints: Checkpointer) -> None:
    """Call `on_checkpoint` for the checkpoints completed since the last call."""
    for step, url in checkpoints.finished():
        if callbacks.on_checkpoint:
            callbacks.on_checkpoint(CheckpointEvent(step, url))


def _stop_if_diverged(state: TrainState, guard: FiniteGuard, config: TrainConfig, here: World) -> None:
    """Raise `DivergedError` after a step that was not finite; save the state before that step for a replay."""
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
    """Log new signs of collapse, and the end of all signs."""
    for sign in signs:
        if sign not in before:
            log.say(f"collapse: {sign}")
    if before and not signs:
        log.say("collapse: over")
    return signs


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of drop path. It depends only on seed, step and rank, so a resumed run repeats the draws."""
    return (seed * 1_000_003 + step) * 65_537 + rank
