"""The augmentation plan: every random choice of every view, drawn before any image is decoded.

For a batch of B images and V views, `MultiCrop` draws arrays [V, B] of windows, flips, colour matrices, blurs and
solarizations. Each number comes from a counter-based generator keyed by (seed, epoch, sample id, view). So a view does
not depend on the batch, the rank, the thread or a restart. Executors are functions of (encoded images, plan) alone.

The recipe is DINO's as EsViT uses it (arXiv 2106.09785, section 4). `docs/decisions/0002-one-colour-matrix.md` says
where one colour matrix per view differs from torchvision's ColorJitter.
"""

from itertools import pairwise, starmap
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator, model_validator

from pipeline.augment.colour import ColourJitter, colour_maps
from pipeline.augment.crop_plan import CropPlan, Interpolation, Passes
from pipeline.config import Config
from pipeline.philox import Domain, uniform, words
from pipeline.pixels import transposed

Probability = float
_ATTEMPTS = 10  # as torchvision's RandomResizedCrop


class ViewGroup(Config):
    """Views of one size. Probabilities: one per view, or a single one for all views.

    Attributes:
        size (pixels): Side of the square view, or [height, width].
        count: Number of views.
        area: Range of the window's area, as a share of the image.
        blur: Probability of a Gaussian blur.
        solarize: Probability of inverting the pixels from 128 upwards, after the blur.
    """

    size: tuple[PositiveInt, PositiveInt]
    count: PositiveInt
    area: tuple[float, float]
    blur: tuple[Probability, ...] = (0.0,)
    solarize: tuple[Probability, ...] = (0.0,)

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) else size

    @field_validator("blur", "solarize", mode="before")
    @classmethod
    def _one_for_all(cls, probability: object) -> object:
        return (probability,) if isinstance(probability, int | float) else probability

    def per_view(self, probabilities: tuple[Probability, ...]) -> list[Probability]:
        """One probability per view."""
        if len(probabilities) not in (1, self.count):
            raise ValueError(f"{len(probabilities)} probabilities for {self.count} views")
        return list(probabilities) * (self.count // len(probabilities))


class MultiCropConfig(Config):
    """The views of one training sample; the defaults are EsViT's ten. The first group is the teacher's.

    Attributes:
        views: The sizes of views and the number of views of each size. The first size is the teacher's.
        aspect: Range of the window's width over its height.
        flip: Probability of a left-right flip.
        grayscale: Probability of a grayscale view.
        blur_sigma (pixels): Range of the standard deviation of the blur.
        interpolation: The filter of the resize, antialiased: "bicubic", or "bilinear" as torchvision's default.
        exif_orientation: "ignore" leaves photographs as they are stored, as the original does; "apply" turns them
            upright first.
    """

    views: tuple[ViewGroup, ...] = (
        ViewGroup(size=(224, 224), count=2, area=(0.4, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2)),
        ViewGroup(size=(96, 96), count=8, area=(0.05, 0.4), blur=(0.5,)),
    )
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: ColourJitter = ColourJitter()
    grayscale: Probability = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    interpolation: Interpolation = "bicubic"
    exif_orientation: Literal["ignore", "apply"] = "ignore"

    @field_validator("views")
    @classmethod
    def _probabilities_fit(cls, views: tuple[ViewGroup, ...]) -> tuple[ViewGroup, ...]:
        for group in views:
            group.per_view(group.blur)
            group.per_view(group.solarize)
        return views


class CenterCropConfig(Config):
    """The evaluation view: resize the shorter side to `resize` pixels, then cut out the centre `size` x `size`."""

    size: PositiveInt = 224
    resize: PositiveInt = 256

    @model_validator(mode="after")
    def _inside_the_image(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"size {self.size} is larger than resize {self.resize}")
        return self


class MultiCrop:
    """The random views of pre-training."""

    def __init__(self, config: MultiCropConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        groups = config.views
        self._sizes = tuple(group.size for group in groups for _ in range(group.count))
        ends = np.cumsum([group.count for group in groups]).tolist()
        self._groups = tuple(starmap(slice, pairwise([0, *ends])))
        self._area = np.array([group.area for group in groups for _ in range(group.count)])
        self._blur = np.array([p for group in groups for p in group.per_view(group.blur)])
        self._solarize = np.array([p for group in groups for p in group.per_view(group.solarize)])

    def __call__(
        self,
        passes: Passes,
        ids: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        orientations: NDArray[np.int64] | None = None,
    ) -> CropPlan:
        """The plan of the samples `ids` [B] in `passes`."""
        config, num_views = self._config, len(self._sizes)
        if config.exif_orientation == "ignore":
            orientations = None
        if orientations is not None:
            lying = transposed(orientations)
            heights, widths = np.where(lying, widths, heights), np.where(lying, heights, widths)
        views = np.arange(num_views)[:, None]
        u = uniform(words(self._seed, Domain.MULTI_CROP, ids[None], passes, views, num_words=36))
        top, left, height, width = self._windows(u[..., :22], heights, widths)
        jitter, gray = u[..., 22] < config.jitter.probability, u[..., 28] < config.grayscale
        matrix, pivot = colour_maps(config.jitter, u[..., 23:28], jitter, gray)
        low, high = config.blur_sigma
        blurred = u[..., 29] < self._blur[:, None]
        return CropPlan(
            sizes=self._sizes,
            groups=self._groups,
            top=top,
            left=left,
            height=height,
            width=width,
            flip=u[..., 30] < config.flip,
            coloured=jitter | gray,
            matrix=matrix,
            pivot=pivot,
            sigma=np.where(blurred, low + (high - low) * u[..., 31], 0).astype(np.float32),
            solarize=u[..., 32] < self._solarize[:, None],
            orientations=orientations,
            interpolation=config.interpolation,
        )

    def _windows(
        self, u: NDArray[np.float64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ...]:
        """As RandomResizedCrop: the first of ten draws (area, aspect) that fits, else the centre at a legal aspect."""
        image_area = (heights * widths)[None, :, None]
        low, high = self._area[:, 0, None, None], self._area[:, 1, None, None]
        area = image_area * (low + (high - low) * u[..., 0:_ATTEMPTS])
        log_low, log_high = np.log(self._config.aspect)
        aspect = np.exp(log_low + (log_high - log_low) * u[..., _ATTEMPTS : 2 * _ATTEMPTS])
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (w > 0) & (w <= widths[None, :, None]) & (h > 0) & (h <= heights[None, :, None])
        first = fits.argmax(axis=-1)[..., None]
        found = fits.any(axis=-1)
        fallback_h, fallback_w = self._fallback(heights, widths)
        h = np.where(found, np.take_along_axis(h, first, -1)[..., 0], fallback_h)
        w = np.where(found, np.take_along_axis(w, first, -1)[..., 0], fallback_w)
        room_y, room_x = heights - h, widths - w
        top = np.where(found, np.floor(u[..., 20] * (room_y + 1)), room_y // 2).astype(np.int64)
        left = np.where(found, np.floor(u[..., 21] * (room_x + 1)), room_x // 2).astype(np.int64)
        return top, left, h, w

    def _fallback(
        self, heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        narrowest, widest = self._config.aspect
        h = np.minimum(heights, np.rint(widths / narrowest)).astype(np.int64)
        w = np.minimum(widths, np.rint(heights * widest)).astype(np.int64)
        return np.maximum(h, 1), np.maximum(w, 1)


class CenterCrop:
    """The evaluation view: torchvision's Resize(`resize`) and CenterCrop(`size`) as one resize of a window.

    The shorter side becomes `resize` pixels, the longer side int(resize * longer / shorter), and the crop begins at
    round((side - size) / 2), halves to even. Measured in pixels of the stored image, this window has fractional edges.
    """

    def __init__(self, config: CenterCropConfig) -> None:
        self._config = config

    def __call__(
        self,
        passes: Passes,
        ids: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        orientations: NDArray[np.int64] | None = None,
    ) -> CropPlan:
        """One view per sample, not random. Photographs stay as stored, as for published figures."""
        del passes, orientations
        size, shape = self._config.size, (1, len(ids))
        shorter = np.minimum(heights, widths)
        top, height = self._edges(heights, shorter)
        left, width = self._edges(widths, shorter)
        return CropPlan(
            sizes=((size, size),),
            groups=(slice(0, 1),),
            top=top,
            left=left,
            height=height,
            width=width,
            flip=np.zeros(shape, bool),
            coloured=np.zeros(shape, bool),
            matrix=np.broadcast_to(np.eye(3, dtype=np.float32), (*shape, 3, 3)),
            pivot=np.zeros((*shape, 3, 3), np.float32),
            sigma=np.zeros(shape, np.float32),
            solarize=np.zeros(shape, bool),
            cut=False,
        )

    def _edges(
        self, sides: NDArray[np.int64], shorter: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the window begins along the sides [B], and its length: both [1, B]."""
        size, resized = self._config.size, self._config.resize * sides // shorter
        offset = np.rint((resized - size) / 2)
        begin, end = offset * sides / resized, (offset + size) * sides / resized
        return begin[None], (end - begin)[None]
