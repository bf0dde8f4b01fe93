"""Linear layers that save little for the backward: the producer's inputs, from which the layer's input is recomputed.

After a LayerNorm, a GELU or an attention, autograd keeps both the input of the linear layer and the inputs of its
producer. Recomputing the producer is cheap compared with the layer's products, so only the producer's inputs are saved.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[..., Tensor]


def linear_after(make: Make, made_of: tuple[Tensor, ...], layer: nn.Linear) -> Tensor:
    """`layer(make(*made_of))`; the backward calls `make` again. `make` must depend on its arguments alone.

    Both calls of `make` run under the same autocast. Under torch.compile, the compiler decides what to keep.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        product: Tensor = layer(make(*made_of))
        return product
    result: Tensor = _LinearAfter.apply(make, layer.weight, layer.bias, *made_of)
    return result


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, make: Make, weight: Tensor, bias: Tensor | None, *made_of: Tensor) -> Tensor:
        ctx.make = make
        device = weight.device.type
        ctx.autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        ctx.save_for_backward(weight, *made_of)
        return F.linear(make(*made_of), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, *made_of = ctx.saved_tensors
        _, needs_weight, needs_bias, *needs = ctx.needs_input_grad
        leaves = [t.detach().requires_grad_(need) for t, need in zip(made_of, needs, strict=True)]
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), torch.autocast(weight.device.type, dtype, enabled=enabled):
            made = ctx.make(*leaves)
        rows, d_rows = made.detach().flatten(0, -2).to(d_out.dtype), d_out.flatten(0, -2)
        d_weight = (d_rows.mT @ rows).to(weight.dtype) if needs_weight else None
        d_bias = d_rows.sum(dim=0, dtype=weight.dtype) if needs_bias else None
        del rows
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        d_made = (d_rows @ weight.to(d_out.dtype)).view(made.shape).to(made.dtype)
        found = iter(torch.autograd.grad(made, wanted, d_made, allow_unused=True) if wanted else ())
        return None, d_weight, d_bias, *(next(found) if need else None for need in needs)
