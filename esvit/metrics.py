"""What a run says while it runs: Prometheus on every rank, a log file and a live line on the first.

`log.jsonl` has one JSON object a logged step; `samples-rank-N.jsonl`, if asked for, the sample ids of every step;
`metrics-rank-N.prom` the last values of all metrics of a run that ended well.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from prometheus_client import REGISTRY, write_to_textfile
from pydantic import Field, PositiveInt
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from esvit.distributed import World
from esvit.guards import is_uniform
from pipeline import telemetry
from pipeline.config import Config
from pipeline.loader import ViewBatch


class MetricsConfig(Config):
    """How a run reports.

    Attributes:
        port: Of the Prometheus endpoint of local rank 0; rank i of the node takes `port + i`. 0 for any free one.
        address: Interface that the endpoints listen on.
        log_every_steps: Steps between two log lines; only these wait for the device.
        record_samples: Write the ids of the samples of every step, to audit order and resume.
    """

    port: int = Field(default=0, ge=0, lt=65536)
    address: str = "127.0.0.1"
    log_every_steps: PositiveInt = 10
    record_samples: bool = False


class RunLog:
    """The voice of one rank. Made by `run_log`."""

    def __init__(
        self, config: MetricsConfig, world: World, output: Path, num_prototypes: int, stack: ExitStack
    ) -> None:
        self._config, self._world = config, world
        self._num_prototypes = num_prototypes
        self._log = _append(output / "log.jsonl", stack) if world.is_main else None
        samples = output / f"samples-rank-{world.rank}.jsonl"
        self._samples = _append(samples, stack) if config.record_samples else None
        self._progress = _progress_bar() if world.is_main and sys.stdout.isatty() else None
        if self._progress:
            stack.enter_context(self._progress)
        self._task = TaskID(0)
        self._since_log = _Interval()

    def say(self, message: str) -> None:
        """One line on the terminal of the first rank."""
        if self._progress:
            self._progress.console.print(message, highlight=False, soft_wrap=True)
        elif self._world.is_main:
            sys.stdout.write(message + "\n")
            sys.stdout.flush()

    def begin(self, step: int, num_steps: int) -> None:
        """The loop starts at `step` of `num_steps`."""
        if self._progress:
            self._task = self._progress.add_task("", total=num_steps, completed=step, line="")

    @contextmanager
    def step(self) -> Iterator["_StepTimer"]:
        """Around one step: the time to its batch (call `.got(batch)`) and its whole time."""
        timer = _StepTimer()
        yield timer
        if timer.batch is None:
            return
        seconds = time.perf_counter() - timer.begin
        telemetry.TRAIN_STEP_SECONDS.observe(seconds)
        telemetry.TRAIN_STEPS.inc()
        telemetry.TRAIN_SAMPLES.inc(len(timer.batch.ids))
        self._since_log.add(seconds, timer.wait_seconds, len(timer.batch.ids) * self._world.size)
        if self._samples:
            ids = timer.batch.ids.tolist()
            record = {"epoch": timer.batch.epoch, "step": timer.batch.step, "ids": ids}
            self._samples.write(json.dumps(record) + "\n")
            self._samples.flush()

    def due(self, step: int, num_steps: int) -> bool:
        """Whether the step that has just become number `step` (from 1) is logged."""
        return step % self._config.log_every_steps == 0 or step == num_steps

    def log(self, step: int, epoch: float, scalars: dict[str, float], lr: float) -> None:
        """Report the scalars of the newest step and the speed since the last report."""
        telemetry.TRAIN_POSITION.set(epoch)
        telemetry.TRAIN_LEARNING_RATE.set(lr)
        telemetry.TRAIN_TEACHER_ENTROPY.set(scalars["teacher_entropy"])
        for term in ("loss", "view", "region"):
            if term in scalars:
                telemetry.TRAIN_LOSS.labels("total" if term == "loss" else term).set(scalars[term])
        speed = self._since_log.close()
        if self._log:
            record = {"step": step, "epoch": epoch, **scalars, "lr": lr, **speed}
            self._log.write(json.dumps(record) + "\n")
            self._log.flush()
        line = self._line(epoch, scalars, speed)
        if self._progress:
            self._progress.update(self._task, completed=step, line=line)
        else:
            self.say(f"step {step}  {line}")

    def _line(self, epoch: float, scalars: dict[str, float], speed: dict[str, float]) -> str:
        uniform = is_uniform(scalars["view"], self._num_prototypes)
        return (
            f"epoch {epoch:.2f}  {speed['images_per_second']:.1f} images/s  "
            f"waiting for data {100 * speed['data_wait_share']:.0f} %  loss {scalars['loss']:.4f}"
            + ("  (at ln K: has not left the uniform solution)" if uniform else "")
        )


@contextmanager
def run_log(config: MetricsConfig, world: World, output: Path, num_prototypes: int) -> Iterator[RunLog]:
    """Start this rank's metrics endpoint, announce it in `output/targets`, and open its log.

    Raises:
        MetricsPortError: the port is taken.
    """
    port = telemetry.start_exporter(config.port and config.port + world.local_rank, config.address)
    target = telemetry.announce(output / "targets", world.rank, config.address, port, run=output.name)
    telemetry.RUN_INFO.info({"run": output.name, "device": str(world.device), "world_size": str(world.size)})
    with ExitStack() as stack:
        log = RunLog(config, world, output, num_prototypes, stack)
        log.say(f"metrics of rank 0: http://{config.address}:{port}/metrics")
        yield log
    # Only a run that ends well takes its target back: that of a dead rank stays, and its `up == 0` is an alert.
    target.unlink(missing_ok=True)
    write_to_textfile(str(output / f"metrics-rank-{world.rank}.prom"), REGISTRY)


class _StepTimer:
    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.wait_seconds = 0.0
        self.batch: ViewBatch | None = None

    def got(self, batch: ViewBatch) -> ViewBatch:
        self.wait_seconds = time.perf_counter() - self.begin
        self.batch = batch
        return batch


class _Interval:
    """Sums since the last log line."""

    def __init__(self) -> None:
        self._seconds = self._wait_seconds = 0.0
        self._images = 0

    def add(self, seconds: float, wait_seconds: float, images: int) -> None:
        self._seconds += seconds
        self._wait_seconds += wait_seconds
        self._images += images

    def close(self) -> dict[str, float]:
        seconds = max(self._seconds, 1e-9)
        speed = {
            "images_per_second": self._images / seconds,
            "data_wait_share": self._wait_seconds / seconds,
        }
        self.__init__()  # type: ignore[misc]
        return speed


def _append(path: Path, stack: ExitStack) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(path.open("a"))


def _progress_bar() -> Progress:
    return Progress(BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn(), refresh_per_second=4)
