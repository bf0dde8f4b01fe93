"""The projection head: features to logits over K prototypes (EsViT, section 3.2; the head of DINO).

View and region task have one head each. At D = 768 and K = 65,536 a head has 23.1 M parameters, nearly as many as
Swin-T.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, field_validator
from timm.layers import trunc_normal_
from torch import Tensor, nn

from esvit import own_parts
from pipeline.config import Config

_NAME = "projection"


class HeadConfig(Config):
    """Size and kind of a head; the defaults are the paper's.

    Attributes:
        name: "projection", the paper's; or `package.module:Class` for a subclass of `ProjectionHead`
            (docs/training.md).
        num_prototypes: Number of prototypes, K.
        hidden: Width of the hidden layers.
        bottleneck: Width of the normalised features that are multiplied with the prototypes.
        num_layers: Linear layers before the prototypes.
        batch_norm: Batch norm after each hidden layer. Small runs may need it to leave the uniform solution, loss =
            ln K.
        norm_last_layer: Keep the prototypes' length at 1: more stable, slower.
        options: Settings of a class of your own.
    """

    name: str = _NAME
    num_prototypes: int = Field(default=65536, ge=2)
    hidden: PositiveInt = 2048
    bottleneck: PositiveInt = 256
    num_layers: PositiveInt = 3
    batch_norm: bool = False
    norm_last_layer: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return own_parts.check_name(name, [_NAME])


def build_head(width: int, config: HeadConfig) -> "ProjectionHead":
    """The head of features [..., `width`], freshly initialised.

    Raises:
        OwnPartError: there is no such class; see `own_parts.build`.
    """
    if config.name == _NAME:
        return ProjectionHead(width, config)
    return own_parts.build(config.name, ProjectionHead, width, config)


class ProjectionHead(nn.Module):
    """MLP to a bottleneck, L2 normalisation, prototypes. State names are the published checkpoints'."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(config.num_layers - 1):
            layers.append(nn.Linear(width, config.hidden))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(config.hidden))
            layers.append(nn.GELU())
            width = config.hidden
        layers.append(nn.Linear(width, config.bottleneck))
        for layer in layers:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(*layers)
        self.last_layer = Prototypes(config.bottleneck, config.num_prototypes)
        self.last_layer.weight_g.requires_grad_(not config.norm_last_layer)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [..., D] to logits [..., K]; batch norm counts all leading dimensions as rows."""
        logits: Tensor = self.last_layer(self.bottleneck(features))
        return logits

    def bottleneck(self, features: Tensor) -> Tensor:
        """Map features [..., D] to the rows before the prototypes: [..., bottleneck], fp32, of length 1."""
        rows: Tensor = self.mlp(features.flatten(0, -2))
        # In half precision the eps of the normalisation would vanish.
        return torch.unflatten(F.normalize(rows.float(), dim=-1), 0, features.shape[:-1])


class Prototypes(nn.Module):
    """A weight-normalised layer without bias: prototype k is `weight_g[k] * weight_v[k] / |weight_v[k]|`.

    `weight_g` [K, 1] starts at 1. `weight_v` [K, bottleneck] starts as in `nn.Linear`, not at the 0.02 of the layers
    below: only its direction is used, but its length sets how fast an optimiser turns the direction.
    """

    def __init__(self, bottleneck: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(num_prototypes, 1))
        self.weight_v = nn.Parameter(nn.Linear(bottleneck, num_prototypes, bias=False).weight.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows [..., bottleneck] to logits [..., K]."""
        return F.linear(rows, self.weight_g * F.normalize(self.weight_v, dim=1))
