"""The plan of a batch: planners draw it, executors render it."""

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

    A view is made in these steps. Pixels are 8-bit after each step.
    1. Turn the decoded image upright, if there are `orientations`.
    2. Resize the window to the size of the view, antialiased, with the filter `interpolation`; flip it if `flip`.
    3. If `coloured`: y = matrix @ x + pivot @ mean(x), with x the RGB pixel in 0..255 and mean(x) over the view.
    4. If `sigma` > 0: blur.
    5. If `solarize`: invert values from 128 upwards.

    With `cut`, the window is cut out before the resize, as in torchvision's RandomResizedCrop; its edges are whole
    pixels. Without `cut`, the whole image is resized and the view is cut out of the result, as in Resize and
    CenterCrop; the edges of the window may be fractions of a pixel, and the filter reaches beyond the edges.
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
    orientations: NDArray[np.int64] | None = None  # [B], EXIF orientations 1..8 to undo; None: images stay as stored
    interpolation: Interpolation = "bicubic"
    cut: bool = True

    def check_size(self, b: int, height: int, width: int) -> None:
        """Check that the windows of sample `b` lie inside its decoded image. The size is the one as stored.

        Raises:
            ValueError: a window reaches beyond the image.
        """
        if self.orientations is not None and transposed(self.orientations[b]):
            height, width = width, height
        bottom, right = self._reach[b]
        if bottom > height or right > width:
            raise ValueError(f"it has {height} x {width} pixels, fewer than the index of its shard says")

    @cached_property
    def _reach(self) -> list[list[float]]:
        """Rows and columns that the windows of each sample need: B pairs."""
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
        """Arrays are [B]; sizes are in pixels, as stored.

        Args:
            passes: The pass over the data of each sample, or one pass for all.
            orientations: EXIF orientations, which a recipe may ignore. None: all images are upright.
        """
        ...
