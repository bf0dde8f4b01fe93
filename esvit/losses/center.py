"""Centring of the teacher's logits; with sharpening, it prevents collapse (DINO, section 3.1).

Centring subtracts the mean logit of past batches, so that no prototype takes every image. Sharpening divides by a low
temperature, so that the assignment does not become uniform.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Center(nn.Module):
    """The moving mean `center` [K] of the teacher's logits over all rows of all ranks, in fp32."""

    center: Tensor

    def __init__(self, num_prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(num_prototypes))

    @torch.no_grad()
    def update(self, total: Tensor, num_rows: int) -> None:
        """Move the centre towards the mean of `num_rows` raw logits, given their sum [K]; a collective call under DDP.

        Ranks are weighted by their rows: an uneven split gives the same centre as one process with all rows.
        """
        count = total.new_full((1,), num_rows)
        total_and_count = torch.cat([total, count])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total_and_count)
        mean = total_and_count[:-1] / total_and_count[-1]
        self.center.lerp_(mean, 1 - self.momentum)
