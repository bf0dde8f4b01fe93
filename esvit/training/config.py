"""`TrainConfig`: all settings of a pre-training run, and the checks between them."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from esvit.checkpoints.keeping import CheckpointConfig
from esvit.guards import GuardConfig
from esvit.losses import LossConfig
from esvit.metrics import MetricsConfig
from esvit.mixup import MixupConfig
from esvit.models.student_teacher import ModelConfig
from esvit.optim import OptimConfig
from esvit.schedules import ScheduleConfig
from esvit.step import Precision
from pipeline.augment import MultiCropConfig
from pipeline.config import Config
from pipeline.loader import DataConfig


class TrainConfig(Config):
    """A pre-training run.

    Defaults adapt to the values that are set: a run of one epoch freezes no prototypes, a small batch has fewer lanes.
    Two settings that contradict each other are refused.

    Attributes:
        output: Local folder for the resolved config, the log and the metrics targets.
        seed: Seed of all randomness: order, views, initialisation, drop path, mixup.
        device: Device of the networks; "auto" is a GPU where there is one.
        precision: "bf16" and "fp16" run the networks under autocast; losses and softmaxes stay in fp32.
        global_batch (images): Images of one step over all ranks.
        accumulation: Number of parts in which a rank processes its images of one step, to save memory.
    """

    output: str
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        epochs, stream = self.schedule.epochs, self.data.stream
        frozen_epochs = min(self.optim.freeze_last_layer_epochs, epochs - 1)
        optim = self.optim.with_defaults(freeze_last_layer_epochs=frozen_epochs)
        order = stream.order.with_defaults(lanes=math.gcd(stream.order.lanes, self.global_batch))
        data = self.data.model_copy(update={"stream": stream.model_copy(update={"order": order})})
        for name, value in {"optim": optim, "data": data}.items():
            object.__setattr__(self, name, value)  # frozen, as dataclasses are while `__post_init__` runs
        for refusal in (*self._lengths(), *self._batches()):
            raise ValueError(refusal)
        return self

    def _lengths(self) -> list[str]:
        """Sentences on settings that are longer than the run."""
        schedule, epochs = self.schedule, f"schedule.epochs ({self.schedule.epochs})"
        found = []
        if (frozen := self.optim.freeze_last_layer_epochs) >= schedule.epochs:
            found.append(
                f"optim.freeze_last_layer_epochs ({frozen}) leaves no epoch of {epochs} in which the prototypes learn; "
                "lower it"
            )
        if (first := self.checkpoint.start_epoch) >= schedule.epochs:
            found.append(f"checkpoint.start_epoch ({first}) is not before the end of the run, {epochs}; lower it")
        start, warmup = schedule.region_start_epoch, schedule.region_warmup_epochs
        if self.loss.region_weight and start + warmup and start + max(warmup, 1) > schedule.epochs:
            found.append(
                f"schedule.region_start_epoch ({start}) and region_warmup_epochs ({warmup}) do not fit into {epochs}; "
                "lower them, or set loss.region_weight=0 for the view task alone"
            )
        return found

    def _batches(self) -> list[str]:
        """Sentences on a batch that cannot be divided, and on too few views."""
        batch = f"global_batch ({self.global_batch})"
        found = []
        if self.global_batch % (lanes := self.data.stream.order.lanes):
            found.append(
                f"{batch} is not a multiple of data.stream.order.lanes ({lanes}); set the lanes to a divisor of the "
                "batch, or leave them out for what fits"
            )
        if self.global_batch % self.accumulation:
            found.append(f"{batch} is not a multiple of accumulation ({self.accumulation}); change one of them")
        if sum(group.count for group in self.augment.views) < 2:
            found.append("augment.views must have two views or more: the student predicts one view from another")
        return found
