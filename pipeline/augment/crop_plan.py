"""The plan of a batch, as planners draw it and executors render it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.pixels import transposed

Interpolation = Literal["bicubic", "bilinear"]
Passes = int | NDArray[np.int64]
Edges = NDArray[np.int64] | NDArray[np.float64]  # in pixels of the upright image


@dataclass(frozen=True)
class CropPlan:
    """What every executor has to compute. Arrays are [V, B], views in the order of `sizes`.

    A view is: the window of the decoded image, turned upright first where there are `orientations`, resized to its size
    (antialiased, the filter is `interpolation`), flipped; then, where `coloured`, y = matrix @ x + pivot @ mean(x) with
    x the RGB pixel in 0..255 and mean(x) over the view; then, where `sigma` > 0, blurred; then, where `solarize`,
    values from 128 upwards inverted. After each of these steps pixels are 8-bit.

    With `cut` the window is cut out before the resize, as torchvision's RandomResizedCrop does; its edges are whole
    pixels. Without, the whole image is resized and the view cut out of the result, as Resize and CenterCrop do: the
    edges may be fractions of a pixel, and the filter reaches beyond them.
    """

    sizes: tuple[tuple[int, int], ...]  # (height, width) of each view
    groups: tuple[slice, ...]  # runs of views of one size: each becomes one stacked tensor
    top: Edges
    left: Edges
    height: Edges
    width: Edges
    flip: NDArray[np.bool_]
    coloured: NDArray[np.bool_]
    matrix: NDArray[np.float32]  # [V, B, 3, 3]
    pivot: NDArray[np.float32]  # [V, B, 3, 3]
    sigma: NDArray[np.float32]  # pixels of the view; 0 = no blur
    solarize: NDArray[np.bool_]
    orientations: NDArray[np.int64] | None = None  # [B], EXIF orientations 1..8 to obey; None for images as stored
    interpolation: Interpolation = "bicubic"
    cut: bool = True

    def check_size(self, b: int, height: int, width: int) -> None:
        """Compare the decoded size of sample `b`, as stored, with the one that its windows were drawn for.

        Raises:
            ValueError: a window reaches beyond the image.
        """
        if self.orientations is not None and transposed(self.orientations[b]):
            height, width = width, height
        bottom, right = self._reach[b]
        if bottom > height or right > width:
            raise ValueError(f"it has {height} x {width} pixels, fewer than its shard's index says")

    @cached_property
    def _reach(self) -> list[list[float]]:
        """How many rows and columns the windows of each sample need."""
        ends = np.stack([self.top + self.height, self.left + self.width], axis=-1)
        reach: list[list[float]] = ends.max(axis=0).tolist()
        return reach

    @property
    def num_views(self) -> int:
        """V."""
        return len(self.sizes)

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self.top.shape[1])


class Planner(Protocol):
    """Draws the plan of a batch."""

    def __call__(
        self,
        passes: Passes,
        ids: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        orientations: NDArray[np.int64] | None = None,
    ) -> CropPlan:
        """All are [B], `passes`, the epochs, may be one for all; sizes in pixels, as stored.

        `orientations` are EXIF's, of which the recipe says whether they matter; None: all are upright.
        """
        ...
