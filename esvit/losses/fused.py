"""Prototypes and cross-entropy fused: from bottleneck rows to loss and gradients, in tiles of rows.

At K = 65,536 the logits, log-probabilities and targets of a step take more memory than both networks. So a tile of rows
gets its logits, targets, loss and gradient before the next tile reuses the memory. The forward computes the gradient
too, because the logits are there; the backward only scales the gradient. Memory that stays: tensors of the size of the
rows and of the prototypes.

Letters: B images, R student rows and Q targets of each, R' teacher rows of an image, C bottleneck, K prototypes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOAT_BYTES = 4
_CACHE_BYTES = 2**21  # per tensor; an operation uses three


class Prototypes(Protocol):
    """A weight-normalised layer: prototype k is `weight_g[k] * weight_v[k] / |weight_v[k]|`."""

    @property
    def weight_v(self) -> Tensor: ...  # [K, C]
    @property
    def weight_g(self) -> Tensor: ...  # [K, 1]


@dataclass(frozen=True)
class Teacher:
    """Source of the targets softmax((t - center) / temperature): rows [B, R', C], centre [K]; no gradient."""

    rows: Tensor
    prototypes: Prototypes
    center: Tensor
    temperature: float


class FusedLoss(NamedTuple):
    """The loss [], and two sums [K] over all teacher rows: of raw logits and of targets."""

    loss: Tensor
    teacher_logits: Tensor
    teacher_probs: Tensor


def fused_cross_entropy(
    rows: Tensor,
    prototypes: Prototypes,
    teacher: Teacher,
    match: Tensor,
    weights: Tensor,
    student_temperature: float,
    tile_bytes: int,
) -> FusedLoss:
    """Sum over b, r, q of weights[r, q] * -<target[b, match[b, r, q]], log softmax(s[b, r] / temperature)>.

    Under bf16 or fp16 autocast, matrix products run in bf16: gradients before loss scaling leave the range of fp16.
    All else is in fp32. Deterministic: no scattered sums.

    Args:
        rows: Normalised bottleneck rows [B, R, C] of the student.
        prototypes: Prototypes of the student.
        teacher: Rows and prototypes of the teacher.
        match: [B, R, Q]: index of each row's targets among the R' teacher rows of the same image.
        weights: [R, Q], 0 where a row has fewer than Q targets.
        student_temperature: Divides the student's logits.
        tile_bytes: Size of one fp32 tensor of tile logits, at least one row; about two such tensors live at a time.
    """
    half = torch.is_autocast_enabled(rows.device.type)
    task = _Task(teacher, match, weights, student_temperature, tile_bytes, torch.bfloat16 if half else torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        student = (rows.float().contiguous(), prototypes.weight_v, prototypes.weight_g)
        loss, teacher_probs = _Fused.apply(*student, task)
        with torch.no_grad():
            weight_v, scale = _direction_and_scale(teacher.prototypes, torch.float32)
            teacher_logits = (weight_v @ teacher.rows.float().sum(dim=(0, 1))) * scale
    return FusedLoss(loss, teacher_logits, teacher_probs)


@dataclass(frozen=True)
class _Task:
    """The arguments without a gradient."""

    teacher: Teacher
    match: Tensor
    weights: Tensor
    student_temperature: float
    tile_bytes: int
    dtype: torch.dtype  # of the matrix products

    def image_groups(self) -> Iterator[slice]:
        """Groups of images whose targets fill a tile."""
        batch, rows_per_image = self.teacher.rows.shape[:2]
        return _even_slices(batch, max(1, self.rows_per_tile // rows_per_image))

    def blocks(self, tile: Tensor) -> Iterator[slice]:
        """Parts of a tile that each run through all operations: on a CPU, as many rows as its cache holds."""
        row_bytes = _FLOAT_BYTES * tile.shape[1]
        return _even_slices(len(tile), len(tile) if tile.is_cuda else max(1, _CACHE_BYTES // row_bytes))

    @property
    def rows_per_tile(self) -> int:
        return max(1, self.tile_bytes // (_FLOAT_BYTES * len(self.teacher.center)))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight_v: Tensor, weight_g: Tensor, task: _Task) -> tuple[Tensor, Tensor]:
        """Loss and the sum of the targets; stores the gradients in `ctx`."""
        gradients = (torch.zeros_like(rows), torch.zeros_like(weight_v)) if any(ctx.needs_input_grad) else None
        scale = (_scale(weight_v, weight_g) / task.student_temperature).squeeze(1)
        loss, probs_sum = _run_tiles(task, rows, weight_v.to(task.dtype), scale, gradients)
        if gradients is not None:
            d_rows, d_weight = gradients
            d_g = _through_weight_norm(d_weight, weight_v, weight_g, task.student_temperature)
            ctx.gradients = (d_rows, d_weight, d_g)
        ctx.mark_non_differentiable(probs_sum)
        return loss, probs_sum

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients in place and hand them over. Only once: a copy would be too large."""
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("the fused loss gives its gradients away: one backward per forward")
        ctx.gradients = None
        needed = zip(gradients, ctx.needs_input_grad[:3], strict=True)
        return *(gradient.mul_(d_loss) if needs else None for gradient, needs in needed), None


def _run_tiles(
    task: _Task, rows: Tensor, weight_v: Tensor, scale: Tensor, gradients: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Loss [] and sum of the targets [K]; adds to the gradients of `rows` [B, R, C] and of scaled prototypes [K, C]."""
    loss, probs_sum = rows.new_zeros(()), torch.zeros_like(task.teacher.center)
    teacher_v, teacher_scale = _direction_and_scale(task.teacher.prototypes, task.dtype)
    for images in task.image_groups():
        targets = _targets(task, task.teacher.rows[images].flatten(0, 1), teacher_v, teacher_scale)
        probs_sum += targets.sum(dim=0)
        x, match = rows[images].flatten(0, 1).to(task.dtype), _flat_match(task, images)
        weights = task.weights.repeat(images.stop - images.start, 1)
        for part in _even_slices(len(x), task.rows_per_tile):
            tile = (x[part] @ weight_v.T).float()
            for block in task.blocks(tile):
                bag = match[part][block], weights[part][block]
                loss -= _gain_and_descent(tile[block], scale, targets, *bag)
            if gradients is not None:
                d_rows, d_weight = gradients
                _subtract_product(d_weight, tile.to(task.dtype).T, x[part])
                d_rows[images].flatten(0, 1)[part] = -(tile.mul_(scale).to(task.dtype) @ weight_v)
            del tile  # free the memory for the next tile
        del targets
    return loss, probs_sum


def _gain_and_descent(logits: Tensor, scale: Tensor, targets: Tensor, match: Tensor, weights: Tensor) -> Tensor:
    """Minus the loss of some rows. Overwrites `logits` [rows, K] with minus the gradient of the scaled logits."""
    target = F.embedding_bag(match, targets, mode="sum", per_sample_weights=weights)
    log_probs = torch.log_softmax(logits.mul_(scale), dim=-1)
    # sum() adds pairwise, as K terms require; a matrix product would lose digits.
    gain = torch.mul(target, log_probs, out=logits).sum()
    torch.addcmul(target, log_probs.exp_(), weights.sum(dim=1, keepdim=True), value=-1, out=logits)
    return gain


def _targets(task: _Task, rows: Tensor, weight_v: Tensor, scale: Tensor) -> Tensor:
    """Targets [rows, K] of teacher rows [rows, C]. Prototype lengths, centre and temperature apply in one pass."""
    logits = (rows.to(task.dtype) @ weight_v.T).float()
    temperature = task.teacher.temperature
    shift, scale = task.teacher.center / -temperature, scale / temperature
    for block in task.blocks(logits):
        logits[block] = torch.softmax(torch.addcmul(shift, logits[block], scale), dim=-1)
    return logits


def _flat_match(task: _Task, images: slice) -> Tensor:
    """Indices [rows, Q] into the targets of a group of images."""
    match = task.match[images]
    first = torch.arange(len(match), device=match.device) * task.teacher.rows.shape[1]
    return (match + first[:, None, None]).flatten(0, 1)


def _direction_and_scale(prototypes: Prototypes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`weight_v` [K, C] in `dtype`, and the factors [K] that turn products with `weight_v` into logits."""
    return prototypes.weight_v.to(dtype), _scale(prototypes.weight_v, prototypes.weight_g).squeeze(1)


def _scale(weight_v: Tensor, weight_g: Tensor) -> Tensor:
    """[K, 1]: each prototype's length after weight normalisation over its length before."""
    return weight_g / _lengths(weight_v)


def _lengths(weight_v: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(weight_v, dim=1, keepdim=True)
    return lengths.clamp_min(1e-12)


def _through_weight_norm(d_weight: Tensor, weight_v: Tensor, weight_g: Tensor, temperature: float) -> Tensor:
    """Turn the gradient of g * v / |v| / temperature into the gradient of v, in place; return that of g [K, 1]."""
    norms = _lengths(weight_v)
    d_weight.div_(temperature)
    d_g = torch.bmm(d_weight.unsqueeze(1), weight_v.unsqueeze(2)).squeeze(2) / norms
    scale = weight_g / norms
    d_weight.mul_(scale).addcmul_(weight_v, scale * d_g / norms, value=-1)
    return d_g


def _subtract_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total -= a @ b. The sum over tiles is in fp32 for any type of the factors."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, alpha=-1)
    else:
        total -= a @ b


def _even_slices(length: int, largest: int) -> Iterator[slice]:
    """Cut `length` into the fewest parts of at most `largest`, of nearly equal size."""
    count = -(-length // largest)
    return (slice(length * i // count, length * (i + 1) // count) for i in range(count))
