"""The backbones by name: `build_backbone(BackboneConfig(name="swin_tiny"), drop_path=True)`."""

from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator
from torch.utils.checkpoint import checkpoint

from esvit import own_parts
from esvit.models.backbone import Architecture, Backbone, Features
from esvit.models.cvt import CvtArchitecture
from esvit.models.swin import SwinArchitecture
from esvit.models.timm_backbone import TimmArchitecture
from esvit.models.vil import VilArchitecture
from esvit.models.vit import VitArchitecture
from pipeline.config import Config

__all__ = ["BACKBONES", "Backbone", "BackboneConfig", "Features", "build_backbone"]

BACKBONES: dict[str, Any] = {  # rows are `Architecture`s, and dataclasses
    # For tests and demonstrations on 32 px images: 16 regions of width 64, 0.14 M parameters.
    "swin_nano": SwinArchitecture(32, (2, 2), (2, 4), drop_path_rate=0.0, window_size=4, image_size=32),
    "swin_tiny": SwinArchitecture(96, (2, 2, 6, 2), (3, 6, 12, 24), drop_path_rate=0.1),
    "swin_small": SwinArchitecture(96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path_rate=0.2),
    "swin_base": SwinArchitecture(128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path_rate=0.2),
    "swin_large": SwinArchitecture(192, (2, 2, 18, 2), (6, 12, 24, 48), drop_path_rate=0.2),
    "cvt_tiny": CvtArchitecture((64, 192, 384, 768), (2, 2, 6, 2), (1, 3, 6, 12), drop_path_rate=0.1),
    "vil_2262": VilArchitecture((96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24), drop_path_rate=0.1),
    "deit_tiny": VitArchitecture("deit_tiny_patch16_224", drop_path_rate=0.1),
    "deit_small": VitArchitecture("deit_small_patch16_224", drop_path_rate=0.1),
    "vit_base": VitArchitecture("vit_base_patch16_224", drop_path_rate=0.1),
    # As in torchvision, whose network the authors train: residual branches do not start at zero.
    "resnet50": TimmArchitecture("resnet50", options={"zero_init_last": False}),
}
_TIMM = "timm/"  # prefix of any other timm model


@dataclass(frozen=True)
class OwnArchitecture:
    """A backbone of the user's; its class gets `options` as arguments, and `drop_path_rate` where it is set.

    Raises:
        OwnPartError: see `own_parts.build`.
    """

    path: str
    drop_path_rate: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Backbone:
        """The network, freshly initialised. Only this imports the class."""
        drop_path = {"drop_path_rate": self.drop_path_rate} if self.drop_path_rate else {}
        return own_parts.build(self.path, Backbone, **self.options, **drop_path)  # type: ignore[type-abstract]


Stages = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class BackboneConfig(Config):
    """A row of the table of backbones (`esvit.models.BACKBONES`) and changes to that row; null keeps the row's value.

    Attributes:
        name: The row; or `timm/NAME` for any timm model that returns a map or a sequence of features; or
            `package.module:Class` for a subclass of `esvit.models.Backbone` (docs/training.md).
        drop_path_rate: Probability that the student skips its last block; it rises linearly from 0 at the first block.
        window_size (tokens): Side of an attention window: one number, or one per stage.
        patch_size (pixels): Side of a patch.
        embed_dim: Width of the first stage; it doubles from stage to stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        image_size (pixels): Image side for which windows and shifts are fixed. Crops may have any size.
        widths: Feature width of each stage, where widths do not double from stage to stage.
        mlp_ratio: Swin: hidden width of a block's MLP over the width of the stage.
        absolute_positions: Swin: add learned position embeddings to the patches.
        relative_positions: CvT: add to a score a learned bias for the distance between two tokens of a window.
        shift: CvT: shift the windows of every second block by half a window, as Swin does.
        mode: ViL: 1 to attend to one random neighbouring window in training, 0 to attend to all eight.
        options: For timm models: further arguments of `timm.create_model`, beside the row's own options. For a class
            of your own: its arguments.
        recompute: Keep only the input of each block, and recompute the rest in the backward: a third slower, a
            fraction of the memory.
    """

    name: str = "swin_tiny"
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    window_size: PositiveInt | Stages | None = None
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depths: Stages | None = None
    num_heads: Stages | None = None
    image_size: PositiveInt | None = None
    widths: Stages | None = None
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    absolute_positions: bool | None = None
    relative_positions: bool | None = None
    shift: bool | None = None
    mode: Literal[0, 1] | None = None
    options: dict[str, Any] | None = None
    recompute: bool = False

    @property
    def architecture(self) -> Architecture:
        """The row with the changes applied."""
        row = self._row
        changes = self.model_dump(exclude={"name", "recompute"}, exclude_none=True)
        known = {field.name for field in fields(row)}
        if unknown := changes.keys() - known:
            raise ValueError(f"{self.name} has no {min(unknown)}; it has {', '.join(sorted(known))}")
        if self.options is not None:
            changes["options"] = {**row.options, **self.options}
        return replace(row, **changes)  # type: ignore[no-any-return]

    @property
    def _row(self) -> Any:
        if self.name in BACKBONES:
            return BACKBONES[self.name]
        if own_parts.is_path(self.name):
            return OwnArchitecture(self.name)
        return TimmArchitecture(self.name.removeprefix(_TIMM))

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return name if name.startswith(_TIMM) else own_parts.check_name(name, [*BACKBONES, f"{_TIMM}NAME"])

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _ = self.architecture  # raises
        return self


def build_backbone(config: BackboneConfig, *, drop_path: bool) -> Backbone:
    """Build and initialise a backbone; the student trains with drop path, the teacher never does."""
    architecture: Any = config.architecture
    backbone: Backbone = (architecture if drop_path else replace(architecture, drop_path_rate=0.0)).build()
    if config.recompute:
        for block in backbone.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return backbone
