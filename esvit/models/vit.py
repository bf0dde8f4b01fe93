"""ViT and DeiT as EsViT trains them: timm's network, with the authors' positions and class token.

Two things differ from timm's own; parameter names do not:

- At other image sizes, position embeddings are resized bicubically without antialiasing. Pixels beyond the last whole
  patch, right and bottom, are not seen; timm pads them with zeros.
- The class token starts from a normal distribution of deviation 0.02 (timm: 1e-6).

Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929); Touvron et al., "Training data-efficient image
transformers" (arXiv 2012.12877).
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features
from esvit.models.positions import resized
from esvit.models.timm_backbone import TimmArchitecture, TimmBackbone
from pipeline.errors import UserError


@dataclass(frozen=True)
class VitArchitecture(TimmArchitecture):
    """A timm ViT with one class token and learned positions, by its timm name."""

    def build(self) -> Backbone:
        """The network, freshly initialised.

        Raises:
            UserError: timm does not accept the options, or the options change the kind of network.
        """
        network = self.network()
        if not _is_plain(network):
            raise UserError(f"the options {self.options} change the forward of '{self.model}'; use timm/{self.model}")
        return Vit(network)


class Vit(TimmBackbone):
    """A timm network on patches and a class token, with our positions."""

    network: Any  # timm has no types

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        trunc_normal_(self.network.cls_token, std=0.02)

    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] to the class token and T regions: 196 at 224 px and 36 at 96 px for patch 16."""
        rows, columns = (
            side - side % patch
            for side, patch in zip(images.shape[2:], self.network.patch_embed.patch_size, strict=True)
        )
        patches = self.network.patch_embed(images[:, :, :rows, :columns])  # [B, h, w, D]
        class_token = self.network.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat([class_token, patches.flatten(1, 2)], dim=1) + self._positions(*patches.shape[1:3])
        tokens = self.network.norm(self.network.blocks(self.network.pos_drop(tokens)))
        return Features(tokens[:, 0], tokens[:, 1:])

    def _positions(self, height: int, width: int) -> Tensor:
        """Embeddings [1, 1 + height * width, D] of the class token and the places of a map."""
        table, made_for = self.network.pos_embed, self.network.patch_embed.grid_size
        return torch.cat([table[:, :1], resized(table[:, 1:], made_for, (height, width))], dim=1)


def _is_plain(network: Any) -> bool:
    """Whether the forward above covers the whole network."""
    return (
        network.num_prefix_tokens == 1
        and network.cls_token is not None
        and network.pos_embed is not None
        and not network.no_embed_class
        and isinstance(network.norm_pre, nn.Identity)
        and isinstance(network.patch_drop, nn.Identity)
    )
