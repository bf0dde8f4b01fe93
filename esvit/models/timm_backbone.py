"""timm networks as backbones: ResNet, and any other that returns a map or a sequence of features."""

from dataclasses import dataclass, field
from typing import Any

import timm
from torch import Tensor, nn

from esvit.models.backbone import Backbone, Features
from pipeline.errors import UserError

# Arguments that make timm's families take images of any size; each family knows at most one of them.
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False},
    {},
)
_CLASSIFIER = ("head", "fc_norm", "fc", "classifier")


@dataclass(frozen=True)
class TimmArchitecture:
    """A timm model by its timm name; `options` go to `timm.create_model`.

    Raises:
        UserError: timm has no such model.
    """

    model: str
    drop_path_rate: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not timm.is_model(self.model):
            similar = timm.list_models(f"*{self.model[:6]}*")[:5]
            raise UserError(f"timm has no model '{self.model}'" + (f"; it has {', '.join(similar)}" if similar else ""))

    def build(self) -> Backbone:
        """The network, freshly initialised.

        Raises:
            UserError: timm does not accept the options.
        """
        return TimmBackbone(self.network())

    def network(self) -> nn.Module:
        """timm's network without its classifier, for images of any size."""
        options = {"drop_path_rate": self.drop_path_rate, **self.options} if self.drop_path_rate else self.options
        for any_size in _ANY_SIZE:
            try:
                network: nn.Module = timm.create_model(self.model, num_classes=0, **any_size, **options)
                return network
            except TypeError as error:
                problem = error
        raise UserError(f"timm cannot build '{self.model}' with {options}: {problem}")


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    From a sequence: all patch tokens are regions, and the class token, if there is one, is the pooled feature. From a
    map: every place is a region, and the mean of the regions is the pooled feature.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.num_features)  # type: ignore[arg-type]
        self._num_prefix = int(getattr(network, "num_prefix_tokens", 0))
        for name in _CLASSIFIER:  # its rest is unused, and DDP would wait for the gradients
            if (rest := getattr(network, name, None)) is not None:
                rest.requires_grad_(False)
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    @property
    def blocks(self) -> list[nn.Module]:
        """The children of module lists and sequences: timm's models keep their blocks there."""
        sequences = [m for m in self.network.children() if isinstance(m, nn.Sequential | nn.ModuleList)]
        return [block for sequence in sequences for block in sequence]

    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] to T regions: 196 at 224 px for a ViT of patch 16, 49 for most maps."""
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        if features.ndim == 4:
            regions = features.flatten(1, 2) if self._channels_last else features.flatten(2).mT
            return Features(regions.mean(dim=1), regions)
        regions = features[:, self._num_prefix :]
        return Features(features[:, 0] if self._num_prefix else regions.mean(dim=1), regions)
