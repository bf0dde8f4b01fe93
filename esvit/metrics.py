"""Reports of a run: Prometheus metrics on every rank, a log file and a live line on the first rank.

    log.jsonl               one JSON object per logged step
    samples-rank-N.jsonl    the sample ids of every step, with `metrics.record_samples`
    metrics-rank-N.prom     the last values of all metrics, after a run that ended well

Nothing is written before `RunLog.begin`: until then the start may still be refused.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from prometheus_client import REGISTRY, write_to_textfile
from pydantic import Field, PositiveInt
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from esvit.distributed import World
from esvit.guards import is_uniform
from pipeline import telemetry
from pipeline.config import Config
from pipeline.console.lines import write_line
from pipeline.errors import UserError
from pipeline.loader import ViewBatch
from pipeline.printable import printable


class MetricsConfig(Config):
    """Metrics endpoint and log of a run.

    Attributes:
        port: Prometheus port of local rank 0; local rank i uses `port + i`. 0: any free port.
        address: Interface that the endpoints listen on.
        log_every_steps: Steps between two log lines. A logged step waits for the device; the others do not.
        record_samples: Write the sample ids of every step, to audit order and resume.
    """

    port: int = Field(default=0, ge=0, lt=65536)
    address: str = "127.0.0.1"
    log_every_steps: PositiveInt = 10
    record_samples: bool = False


class OutputError(UserError):
    """The output folder of a run cannot be written."""


class RunLog:
    """Reports of one rank; made by `run_log`."""

    def __init__(
        self, config: MetricsConfig, world: World, output: Path, num_prototypes: int, port: int, stack: ExitStack
    ) -> None:
        self._config, self._world, self._output, self._port, self._stack = config, world, output, port, stack
        self._num_prototypes = num_prototypes
        self._log: TextIO | None = None
        self._samples: TextIO | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._since_log = _Interval()
        self._remaining = _Remaining(0, 0)

    def say(self, message: str) -> None:
        """Print one line on the terminal of the first rank."""
        if self._progress:
            self._progress.console.print(printable(message), markup=False, emoji=False, highlight=False, soft_wrap=True)
        elif self._world.is_main:
            write_line(message)
            sys.stdout.flush()

    def begin(self, step: int, num_steps: int) -> None:
        """Start reporting from `step` of `num_steps`: announce the metrics endpoint, open the log, show the bar.

        Raises:
            OutputError: the output folder cannot be written.
        """
        config, rank = self._config, self._world.rank
        try:
            telemetry.announce(self._targets, rank, config.address, self._port, run=self._output.name)
            if self._world.is_main:
                self._log = _append(self._output / "log.jsonl", self._stack)
            if config.record_samples:
                self._samples = _append(self._output / f"samples-rank-{rank}.jsonl", self._stack)
        except OSError as error:
            raise OutputError(f"cannot write the output folder {self._output}: {error.strerror}") from None
        device, size = str(self._world.device), str(self._world.size)
        telemetry.RUN_INFO.info({"run": self._output.name, "device": device, "world_size": size})
        self.say(f"metrics of rank 0: http://{config.address}:{self._port}/metrics")
        self._remaining = _Remaining(step, num_steps)
        if self._world.is_main and sys.stdout.isatty():
            bar = Progress(BarColumn(), TextColumn("{task.fields[line]}", markup=False), refresh_per_second=4)
            self._progress = self._stack.enter_context(bar)
            self._task = bar.add_task("", total=num_steps, completed=step, line="")

    def end(self) -> None:
        """End well: remove the target and write the last values of the metrics."""
        self.withdraw()
        path = self._output / f"metrics-rank-{self._world.rank}.prom"
        try:
            write_to_textfile(str(path), REGISTRY)
        except OSError as error:
            raise OutputError(f"the run is complete, but {path} cannot be written: {error.strerror}") from None

    def withdraw(self) -> None:
        """Take the target back."""
        with suppress(FileNotFoundError, NotADirectoryError):
            (self._targets / f"rank-{self._world.rank}.json").unlink()

    @property
    def _targets(self) -> Path:
        return self._output / "targets"

    @contextmanager
    def step(self) -> Iterator["_StepTimer"]:
        """Time one step, and the wait for its batch: call `.got(batch)` when the batch is there."""
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
            _write_line(self._samples, record)

    def due(self, step: int, num_steps: int) -> bool:
        """Whether the step just made, number `step` from 1, is logged."""
        return step % self._config.log_every_steps == 0 or step == num_steps

    def log(self, step: int, epoch: float, scalars: dict[str, float], lr: float) -> None:
        """Log the scalars of the newest step and the speed since the last log line."""
        telemetry.TRAIN_POSITION.set(epoch)
        telemetry.TRAIN_LEARNING_RATE.set(lr)
        telemetry.TRAIN_TEACHER_ENTROPY.set(scalars["teacher_entropy"])
        for term in ("loss", "view", "region"):
            if term in scalars:
                telemetry.TRAIN_LOSS.labels("total" if term == "loss" else term).set(scalars[term])
        speed = self._since_log.close()
        if self._log:
            record = {"step": step, "epoch": epoch, **scalars, "lr": lr, **speed}
            _write_line(self._log, record)
        line = f"{self._remaining.describe(step)}  {self._line(epoch, scalars, speed)}"
        if self._progress:
            self._progress.update(self._task, completed=step, line=line)
        else:
            self.say(line)

    def _line(self, epoch: float, scalars: dict[str, float], speed: dict[str, float]) -> str:
        uniform = is_uniform(scalars["view"], self._num_prototypes)
        return (
            f"epoch {epoch:.2f}  {speed['images_per_second']:.1f} images/s  "
            f"waiting for data {100 * speed['data_wait_share']:.0f} %  loss {scalars['loss']:.4f}"
            + ("  (at ln K: has not left the uniform solution)" if uniform else "")
        )


@contextmanager
def run_log(config: MetricsConfig, world: World, output: Path, num_prototypes: int) -> Iterator[RunLog]:
    """Start this rank's metrics endpoint, and a log that opens its files in `output` when the run begins.

    A run that ends well removes its targets from `output/targets`. The target of a dead rank stays, so that its
    `up == 0` raises an alert.

    Raises:
        MetricsPortError: the port is taken.
    """
    with ExitStack() as stack:
        port = stack.enter_context(telemetry.exporter(config.port and config.port + world.local_rank, config.address))
        log = RunLog(config, world, output, num_prototypes, port, stack)
        yield log
        log.end()


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


class _Remaining:
    """Progress of the run, and the time left at the speed of the last steps."""

    def __init__(self, step: int, num_steps: int) -> None:
        self._step, self._num_steps, self._time = step, num_steps, time.monotonic()
        self._step_seconds = 0.0

    def describe(self, step: int) -> str:
        """Text like "step 20 of 400  ETA 0:12:34". The ETA is wall-clock time: checkpoints and logging count."""
        now = time.monotonic()
        recent = (now - self._time) / max(step - self._step, 1)
        # Half from the last report, half from earlier reports: a slow start soon loses its weight.
        self._step_seconds = (self._step_seconds + recent) / 2 if self._step_seconds else recent
        self._step, self._time = step, now
        left = timedelta(seconds=round(self._step_seconds * (self._num_steps - step)))
        return f"step {step} of {self._num_steps}  ETA {left}"


def _write_line(file: TextIO, record: dict[str, Any]) -> None:
    """Append a JSON object, which other processes can read at once."""
    try:
        file.write(json.dumps(record) + "\n")
        file.flush()
    except OSError as error:
        raise OutputError(f"cannot write {file.name}: {error.strerror}") from None


def _append(path: Path, stack: ExitStack) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(path.open("a"))
