"""The interface of backbones: images in; one pooled feature and the features of all regions out."""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from pipeline.errors import UserError


class Features(NamedTuple):
    """`pooled` [B, D] for the view task; `regions` [B, T, D], row by row of the map, for the region task."""

    pooled: Tensor
    regions: Tensor


class Backbone(nn.Module, ABC):
    """A network without a classifier; `width` is D, the size of every feature it returns."""

    width: int

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The modules whose activations may be recomputed in the backward."""

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Map images [B, 3, H, W] of any size to `Features`; T follows from H and W."""


class Architecture(Protocol):
    """One row of the table of backbones: a frozen dataclass of sizes that can build itself."""

    @property
    def drop_path_rate(self) -> float: ...

    def build(self) -> Backbone:
        """The network, freshly initialised."""
        ...


def windows_of_stages(window_size: int | tuple[int, ...], num_stages: int) -> tuple[int, ...]:
    """The side of the windows of each stage, from one number for all stages or one per stage.

    Raises:
        UserError: the number of entries is not the number of stages.
    """
    windows = (window_size,) * num_stages if isinstance(window_size, int) else tuple(window_size)
    if len(windows) != num_stages:
        raise UserError(
            f"window_size {list(windows)} has {len(windows)} entries for {num_stages} stages; "
            "give one number, or one per stage"
        )
    return windows
