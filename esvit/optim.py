"""The optimiser as EsViT uses it: two parameter groups, clipping, a frozen last layer, state saved by name."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from esvit.momentum import Momentum
from pipeline.config import Config
from pipeline.errors import UserError


class OptimizerStateError(UserError):
    """A saved optimiser state does not belong to this network."""


class OptimConfig(Config):
    """The optimiser and what happens to its gradients. Learning rate and weight decay come from the schedules.

    Attributes:
        name: "adamw", as in the paper; "sgd", with momentum 0.9; "lars", SGD with steps scaled to each tensor's norm.
        beta1: Decay of AdamW's mean of the gradients.
        beta2: Decay of AdamW's mean of the squared gradients.
        eps: Added to the root of the mean square, against division by 0.
        clip_norm: Largest L2 norm of a gradient; `.inf` for no limit.
        clip: Scope of `clip_norm`: each tensor by itself, or all tensors together.
        freeze_last_layer_epochs: Number of first epochs in which the prototypes of both heads are frozen. The default
            for a run of one epoch is 0.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=3.0, gt=0)
    clip: Literal["per_tensor", "global"] = "per_tensor"
    freeze_last_layer_epochs: NonNegativeInt = 1

    @model_validator(mode="after")
    def _numbers_are_of_the_optimiser(self) -> Self:
        for key in ("beta1", "beta2", "eps"):
            if self.name != "adamw" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is a number of adamw; leave it out for name: {self.name}")
        return self


def build_optimizer(network: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser over the trainable parameters, in two groups: decayed, and exempt (biases and other 1-D tensors).

    As in the authors' implementation, `relative_position_bias_table` and `weight_g`, both 2-D, are decayed. Pass the
    bare network, not its DDP wrapper: the saved state uses its parameter names. AdamW's fused kernel updates all
    tensors in one pass; it and `Momentum` skip a step where `found_inf` on the device is true.
    """
    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [(name, p) for name, p in trainable if p.ndim > 1]},
        {"params": [(name, p) for name, p in trainable if p.ndim <= 1]},
    ]
    if config.name != "adamw":
        return Momentum(groups, lars=config.name == "lars")
    betas = (config.beta1, config.beta2)
    return AdamW(groups, lr=0.0, betas=betas, eps=config.eps, weight_decay=0.0, fused=True)


def apply_schedule(optimizer: Optimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate of this step, and the weight decay of the decayed group."""
    decayed, exempt = optimizer.param_groups
    decayed["lr"] = exempt["lr"] = lr
    decayed["weight_decay"] = weight_decay


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, clip: Literal["per_tensor", "global"]
) -> Tensor:
    """Scale gradients down in place to an L2 norm of at most `max_norm`, without waiting for the device.

    "per_tensor" limits each tensor by itself, as the published runs did, and "global" all of them together.

    Returns:
        The norm [] of all gradients together, before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    total_norm: Tensor = torch.linalg.vector_norm(norms)
    limited = norms if clip == "per_tensor" else total_norm.expand_as(norms)
    scales = (max_norm / (limited + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, scales.unbind())
    return total_norm


def step_unless(failed: Tensor, optimizer: Optimizer) -> None:
    """Make a step unless `failed` [] is true; the host does not wait for the value.

    Uses the attribute through which torch's `GradScaler` controls the optimiser. A skipped step is not counted.
    """
    optimizer.grad_scale, optimizer.found_inf = None, failed.float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def freeze_last_layers(network: nn.Module) -> None:
    """Drop the gradients of the prototypes of both heads, between backward and optimiser step.

    The optimiser ignores parameters without a gradient: no decay, no moments.
    """
    for name, parameter in network.named_parameters():
        if ".last_layer." in name:
            parameter.grad = None


def optimizer_state_by_name(optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """Moments and step count of each updated parameter, by the parameter's name."""
    names = _parameter_names(optimizer)
    return {names[index]: state for index, state in optimizer.state_dict()["state"].items()}


def load_optimizer_state_by_name(optimizer: Optimizer, saved: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Restore the result of `optimizer_state_by_name`; the network may have more parameters than the saved one.

    Returns:
        Names of parameters without saved state: they start fresh. Tell the user.

    Raises:
        OptimizerStateError: a saved name is not in this network, or has another shape, or is of another optimiser.
    """
    names = _parameter_names(optimizer)
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = dict(zip(names, tensors, strict=True))
    moments = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, AdamW) else {"momentum"}
    for name, state in saved.items():
        if state.keys() != moments:
            other = "the saved optimiser state is of another optimiser; set optim.name to that of the run that saved it"
            raise OptimizerStateError(other)
        if name not in parameters:
            raise OptimizerStateError(f"the saved optimiser state has '{name}', which this network lacks")
        if (ours := parameters[name].shape) != (theirs := state[next(key for key in state if key != "step")].shape):
            raise OptimizerStateError(
                f"the saved optimiser state of '{name}' has shape {list(theirs)}, not {list(ours)}"
            )
    packed: dict[str, Any] = optimizer.state_dict()
    packed["state"] = {index: saved[name] for index, name in enumerate(names) if name in saved}
    optimizer.load_state_dict(packed)
    return [name for name in names if name not in saved]


def _parameter_names(optimizer: Optimizer) -> list[str]:
    """Names in the order in which `state_dict` numbers the parameters."""
    return [name for group in optimizer.param_groups for name in group["param_names"]]
