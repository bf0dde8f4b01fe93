"""SGD with momentum, and LARS, which also scales the move of each tensor to its length (You et al., 2017)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_MOMENTUM = 0.9
_TRUST = 0.001  # of LARS: the length of a move, as a share of the tensor's own


class Momentum(Optimizer):
    """v <- 0.9 v + m; p <- p - lr v, with the move m = gradient + weight decay * p.

    With `lars`, the m of a tensor of two dimensions or more is scaled to 0.001 of the tensor's length; where either
    length is 0 it stays. As in the authors' implementation, biases and other 1-D tensors have neither scale nor decay;
    the decay is that of the parameter group.

    Makes no step where `found_inf` [] is set and true, which the device decides: torch's protocol of fused optimisers.
    """

    _step_supports_amp_scaling = True  # torch's `GradScaler` then sets `found_inf` instead of waiting for it

    def __init__(self, params: Any, *, lars: bool) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0})
        self._lars = lars

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "the gradients are there already"
        failed = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"], failed)

    def _move(self, parameter: Tensor, lr: float, weight_decay: float, failed: Tensor | None) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        move = parameter.grad + weight_decay * parameter
        if self._lars and parameter.ndim > 1:
            length, own = torch.linalg.vector_norm(move), torch.linalg.vector_norm(parameter)
            move = move * torch.where((length > 0) & (own > 0), _TRUST * own / length, 1.0)
        velocity = _MOMENTUM * state["momentum"] + move
        moved = parameter - lr * velocity
        if failed is not None:
            velocity = torch.where(failed > 0, state["momentum"], velocity)
            moved = torch.where(failed > 0, parameter, moved)
        state["momentum"].copy_(velocity)
        parameter.copy_(moved)
