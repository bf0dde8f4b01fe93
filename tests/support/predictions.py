"""Outputs of a network without a network: random rows, prototypes and regions, for the tests of the losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

from esvit.models.head import Prototypes
from esvit.models.student_teacher import Outputs

C, D = 16, 8
"""Widths of rows and of regions."""


def make_outputs(num_prototypes: int, num_tokens: list[int], batch: int, seed: int, width: int = C) -> Outputs:
    """Random rows and prototypes with gradients; a view per element of `num_tokens`."""
    generator = torch.Generator().manual_seed(seed)

    def rows(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, width, generator=generator), dim=-1).requires_grad_()

    def prototypes() -> Prototypes:
        layer = Prototypes(width, num_prototypes)
        with torch.no_grad():
            layer.weight_v.normal_(generator=generator)
            layer.weight_g.uniform_(0.5, 2, generator=generator)
        return layer

    regions = [torch.randn(batch, tokens, D, generator=generator) for tokens in num_tokens]
    view_rows, region_rows = [rows(batch) for _ in num_tokens], [rows(batch, tokens) for tokens in num_tokens]
    return Outputs(view_rows, prototypes(), region_rows, prototypes(), regions)


def without_regions(outputs: Outputs) -> Outputs:
    """The same of a network without a region head."""
    return outputs._replace(region_rows=None, region_prototypes=None, regions=None)


def tensors_with_gradient(outputs: Outputs) -> list[Tensor]:
    """Rows and prototypes; the regions have none."""
    assert outputs.region_rows is not None and outputs.region_prototypes is not None
    prototypes = [*outputs.view_prototypes.parameters(), *outputs.region_prototypes.parameters()]
    return [*outputs.view_rows, *outputs.region_rows, *prototypes]
