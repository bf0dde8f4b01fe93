"""Guards: detect early that a run diverges or collapses, and say so in one line.

Only `FiniteGuard.first_failure` waits for the device; a run calls it where it waits anyway.
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from esvit.distributed import World
from pipeline import telemetry
from pipeline.config import Config
from pipeline.errors import UserError

_NEVER = 2**62
_UNIFORM_MARGIN = 0.005  # of ln K


class DivergedError(UserError):
    """The loss or a gradient is not finite."""


class CollapseError(UserError):
    """The run has collapsed, and `guards.on_collapse` is "stop"."""


class GuardConfig(Config):
    """When to call a run collapsed.

    Attributes:
        on_collapse: "report" logs the collapse and goes on, "stop" ends the run.
        patience (logged steps): Number of consecutive logged steps that must show the same sign.
        min_entropy: Least entropy of the mean teacher assignment, over ln K; below, few prototypes take every image.
        min_feature_std: Least spread of the teacher's normalised features over the images: 1 when features spread in
            all directions; below the limit, all images look alike.
        max_center_drift: Largest RMS move of a centre between two logged steps, in teacher temperatures.
    """

    on_collapse: Literal["report", "stop"] = "report"
    patience: PositiveInt = 10
    min_entropy: float = Field(default=0.05, ge=0, le=1)
    min_feature_std: float = Field(default=0.01, ge=0)
    max_center_drift: float = Field(default=1.0, gt=0)


class FiniteGuard:
    """Remembers, on the device, the first step that was not finite; from that step on, `failed` [] is true."""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((), _NEVER, dtype=torch.int64, device=device)

    @property
    def failed(self) -> Tensor:
        """Bool [], on the device."""
        return self._first < _NEVER

    def observe(self, step: int, value: Tensor) -> None:
        """Record `value` [] of `step`: NaN or infinite is a failure."""
        seen = torch.where(value.isfinite(), _NEVER, step)
        self._first = torch.minimum(self._first, seen)

    def first_failure(self, world: World) -> int | None:
        """The first step that failed on any rank. A collective call that waits for the device."""
        first = world.min(self._first)
        return None if first == _NEVER else first


class FeatureSpread:
    """Spread of a backbone's pooled features while entered: 1 in all directions, 0 if all features are equal.

    The spread is the root of D times the mean variance of the normalised features over the rows of a forward.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._seen: list[Tensor] = []

    def __enter__(self) -> Self:
        self._handle = self._backbone.register_forward_hook(lambda _module, _inputs, out: self._watch(out.pooled))
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def mean(self) -> Tensor:
        """Mean [] over the forwards seen."""
        return torch.stack(self._seen).mean()

    def _watch(self, pooled: Tensor) -> None:
        rows = F.normalize(pooled.detach().float(), dim=-1)
        variance = rows.var(dim=0, correction=0).sum()  # at most 1: the rows have length 1
        self._seen.append(variance.sqrt())


class CollapseDetector:
    """Checks every logged step for signs of collapse."""

    def __init__(self, config: GuardConfig, num_prototypes: int) -> None:
        self._config, self._num_prototypes = config, num_prototypes
        self._center: Tensor | None = None
        self._streaks: dict[str, int] = {}

    def center_drift(self, loss: nn.Module, teacher_temperature: float) -> Tensor:
        """RMS move [] of the centres since the last logged step, in teacher temperatures; stays on the device.

        The centres are the buffers of the loss; a loss without buffers has drift 0.
        """
        buffers = [buffer.flatten() for buffer in loss.buffers() if buffer.is_floating_point()]
        center = torch.cat(buffers) if buffers else torch.zeros(1)
        before, self._center = self._center, center.clone()
        return (center - (center if before is None else before)).square().mean().sqrt() / teacher_temperature

    def observe(self, scalars: dict[str, float]) -> list[str]:
        """Signs shown by the last `patience` logged steps, this one included; one sentence per sign.

        Raises:
            CollapseError: there is such a sign, and `on_collapse` is "stop".
        """
        config = self._config
        signs = {
            "the loss is ln K: the teacher's assignments are uniform": is_uniform(
                scalars["view"], self._num_prototypes
            ),
            "few prototypes take every image (teacher entropy)": scalars["teacher_entropy"] < config.min_entropy,
            "all images have the same features (feature std)": scalars["feature_std"] < config.min_feature_std,
            "the centre does not settle (centre drift)": scalars["center_drift"] > config.max_center_drift,
        }
        self._streaks = {sign: self._streaks.get(sign, 0) + 1 for sign, shown in signs.items() if shown}
        lasting = [sign for sign, count in self._streaks.items() if count >= config.patience]
        telemetry.TRAIN_FEATURE_STD.set(scalars["feature_std"])
        telemetry.TRAIN_CENTER_DRIFT.set(scalars["center_drift"])
        telemetry.TRAIN_COLLAPSED.set(bool(lasting))
        if lasting and config.on_collapse == "stop":
            raise CollapseError(
                f"the run has collapsed: {'; '.join(lasting)}, for {config.patience} logged steps; try a lower "
                "learning rate, milder crops and colours, head.batch_norm, or guards.on_collapse=report"
            )
        return lasting


def is_uniform(view_loss: float, num_prototypes: int) -> bool:
    """Whether the view loss is ln K, within half a percent: the loss under a teacher with uniform targets."""
    log_k = math.log(num_prototypes)
    return abs(view_loss - log_k) < _UNIFORM_MARGIN * log_k


def cautions(peak_lr: float, global_batch: int, num_prototypes: int, num_samples: int) -> list[str]:
    """Settings of a run that are likely to be mistakes, one sentence per setting.

    The largest published rate is 2e-3 at a batch of 1,024. Our limit is ten times that rate, falls with the square root
    of the batch, and is at most 5e-3. No experiment has set these limits.
    """
    limit = min(5e-3, 2e-2 * math.sqrt(global_batch / 1024))
    found = []
    if peak_lr > limit:
        found.append(
            f"caution: the peak learning rate {peak_lr:.2g} is large for a global batch of {global_batch}: "
            f"nothing above {limit:.2g} is known to work (schedule.base_lr is per 256 images)"
        )
    if num_prototypes > num_samples:
        found.append(
            f"caution: {num_prototypes} prototypes for {num_samples} images are more than can be useful; "
            "lower model.head.num_prototypes"
        )
    return found
