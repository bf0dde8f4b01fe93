"""The backbones by name: `build_backbone(BackboneConfig(name="swin_tiny"), drop_path=True)`."""

from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from esvit.models.backbone import Backbone, Features
from esvit.models.swin import SwinArchitecture
from pipeline.config import Config

__all__ = ["BACKBONES", "Backbone", "BackboneConfig", "Features", "build_backbone"]

BACKBONES: dict[str, SwinArchitecture] = {
    # For tests and demonstrations on 32 px images: 16 regions of width 64, 0.14 M parameters.
    "swin_nano": SwinArchitecture(32, (2, 2), (2, 4), drop_path_rate=0.0, window_size=4, image_size=32),
    "swin_tiny": SwinArchitecture(96, (2, 2, 6, 2), (3, 6, 12, 24), drop_path_rate=0.1),
    "swin_small": SwinArchitecture(96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path_rate=0.2),
    "swin_base": SwinArchitecture(128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path_rate=0.2),
    "swin_large": SwinArchitecture(192, (2, 2, 18, 2), (6, 12, 24, 48), drop_path_rate=0.2),
}

Stages = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class BackboneConfig(Config):
    """A row of `BACKBONES` and what to change in it; None keeps the row's own value.

    Attributes:
        name: The row.
        drop_path_rate: Of the student's last block; it rises linearly from 0 at the first.
        window_size: Side of an attention window, in tokens.
        patch_size: Side of a patch, in pixels.
        embed_dim: Width of the first stage; it doubles from stage to stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        image_size: Side, in pixels, for which windows and shifts are fixed; crops of any size may follow.
    """

    name: str = "swin_tiny"
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    window_size: PositiveInt | None = None
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depths: Stages | None = None
    num_heads: Stages | None = None
    image_size: PositiveInt | None = None

    @property
    def architecture(self) -> SwinArchitecture:
        """The row with the changes applied."""
        return replace(BACKBONES[self.name], **self.model_dump(exclude={"name"}, exclude_none=True))

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(f"no such backbone; choose one of {', '.join(BACKBONES)}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _ = self.architecture  # raises
        return self


def build_backbone(config: BackboneConfig, *, drop_path: bool) -> Backbone:
    """Build and initialise a backbone; the student trains with drop path, the teacher never does."""
    architecture = config.architecture
    return (architecture if drop_path else replace(architecture, drop_path_rate=0.0)).build()
