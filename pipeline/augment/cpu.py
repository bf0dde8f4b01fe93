"""The executor "cpu": renders the plan with the fastest exact CPU kernels, in threads.

    libjpeg-turbo decode, upright -> window, flipped -> torch's antialiased uint8 resize -> one colour matrix
    -> blur -> solarize -> normalised straight into the stacked output batch

With `cut` unset, PIL resizes the window, since torch's kernel cannot begin between two pixels.

Every kernel releases the interpreter lock, so threads use all cores and no pixel is copied between processes. Each
thread keeps its working images, and output batches are reused, so rendering a view allocates nothing.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.augment.blur import blur_kernels
from pipeline.augment.crop_plan import CropPlan
from pipeline.augment.decode import DECODE_ERRORS, decode
from pipeline.augment.executor import OUTPUT_TYPES, BadImages, Output, empty_stack, scale_and_shift
from pipeline.augment.resize import resize_into
from pipeline.augment.threads import Threads
from pipeline.augment.window import draw_window
from pipeline.buffers import BufferPool, Encoded
from pipeline.pixels import upright

Pixels = NDArray[np.uint8]
Kernels = NDArray[np.float32]


class CpuExecutor:
    """Renders each image's views on one of `num_threads` threads."""

    def __init__(self, num_threads: int, output: Output = "float32") -> None:
        self.device, self.batches_ahead = torch.device("cpu"), 0
        self._dtype = OUTPUT_TYPES[output]
        self._buffers, self._canvas = BufferPool(), Canvas()
        cv2.setNumThreads(1)
        self._threads = Threads(num_threads)

    def start(self, images: Sequence[Encoded], plan: CropPlan) -> Callable[[], list[torch.Tensor]]:
        """See `Executor`; the work begins when the result is called."""
        return partial(self, images, plan)

    def __call__(self, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        """See `Executor`."""
        stacks = [
            empty_stack(
                self._buffers, (group.stop - group.start, len(images), *plan.sizes[group.start], 3), self._dtype
            )
            for group in plan.groups
        ]
        kernels = _trimmed(blur_kernels(plan.sigma))
        reasons: dict[int, str] = {}

        def render_image(b: int) -> None:
            try:
                image = decode(images[b])
                plan.check_size(b, *image.shape[:2])
            except DECODE_ERRORS as error:
                reasons[b] = str(error)
                return
            if plan.orientations is not None:
                image = upright(image, int(plan.orientations[b]))
            self._render(image, plan, kernels, b, [stack[:, b] for stack in stacks])

        self._threads.for_each(render_image, len(images))
        if reasons:
            raise BadImages(reasons)
        return [stack.permute(0, 1, 4, 2, 3) for stack in stacks]

    def close(self) -> None:
        """See `Executor`."""
        self._threads.close()

    def _render(self, image: Pixels, plan: CropPlan, kernels: Kernels, b: int, out: list[torch.Tensor]) -> None:
        """Render the views of sample `b` into `out`, one [V, H, W, 3] per size."""
        if self._dtype == torch.uint8:
            stacks = [group.numpy() for group in out]
            draw_views(image, plan, kernels, b, stacks, self._canvas)
            return
        stacks = self._canvas.stacks(plan)
        draw_views(image, plan, kernels, b, stacks, self._canvas)
        for views, group in zip(stacks, out, strict=True):
            _normalise(views, group)


class Canvas(threading.local):
    """The 8-bit images that a thread draws on."""

    def __init__(self) -> None:
        self._stacks: list[Pixels] = []
        self._window = np.empty(0, np.uint8)

    def stacks(self, plan: CropPlan) -> list[Pixels]:
        """Memory for the views of one sample: one [V, H, W, 3] per size, contents undefined."""
        shapes = [(group.stop - group.start, *plan.sizes[group.start], 3) for group in plan.groups]
        if [stack.shape for stack in self._stacks] != shapes:
            self._stacks = [np.empty(shape, np.uint8) for shape in shapes]
        return self._stacks

    def window(self, shape: tuple[int, ...]) -> Pixels:
        """Memory for a window of `shape` [h, w, 3], contents undefined. Every call returns the same memory."""
        num_bytes = math.prod(shape)
        if len(self._window) < num_bytes:
            self._window = np.empty(num_bytes, np.uint8)
        return self._window[:num_bytes].reshape(shape)


def draw_views(image: Pixels, plan: CropPlan, kernels: Kernels, b: int, stacks: list[Pixels], canvas: Canvas) -> None:
    """Draw the views of sample `b`, not yet normalised, into `stacks`, one [V, H, W, 3] per size.

    Colour, blur and solarize work in place, which is safe: OpenCV's kernels read a pixel, or a row, before they write.
    """
    views = [view for stack in stacks for view in stack]
    for v, view in enumerate(views):
        resize_window(image, plan, v, b, view, canvas)
    maps = _maps(views, plan.matrix[:, b], plan.pivot[:, b])
    coloured, blurred, solarize = (column[:, b].tolist() for column in (plan.coloured, plan.sigma > 0, plan.solarize))
    for v, view in enumerate(views):
        if coloured[v]:
            cv2.transform(view, maps[v], dst=view)
        if blurred[v]:
            kernel = kernels[v, b]
            kernel = kernel[kernel > 0]
            cv2.sepFilter2D(view, -1, kernel, kernel, dst=view, borderType=cv2.BORDER_REPLICATE)
        if solarize[v]:
            np.minimum(view, ~view, out=view)  # v below 128, else 255 - v


def _maps(views: list[Pixels], matrix: NDArray[np.float32], pivot: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix and shift of every view [V, 3, 4]; `matrix` and `pivot` are [V, 3, 3]."""
    sums = np.array([cv2.sumElems(view)[:3] for view in views])
    means = sums / [[view.size / 3] for view in views]
    return np.concatenate([matrix, (pivot @ means[..., None]).astype(np.float32)], axis=-1)


def _trimmed(kernels: Kernels) -> Kernels:
    """Blur kernels [..., T] without taps that change a pixel by less than half a grey level; the sums stay 1."""
    kept = np.where(kernels * 255 > 0.5, kernels, 0)
    sums = kept.sum(axis=-1, keepdims=True)
    np.divide(kept, sums, out=kept, where=sums > 0)
    return kept


def resize_window(image: Pixels, plan: CropPlan, v: int, b: int, out: Pixels, canvas: Canvas) -> None:
    """Resize the window of view `v` into `out` [H, W, 3], flipped where the plan says so. Equals PIL up to rounding."""
    if not plan.cut:
        np.copyto(out, np.asarray(draw_window(Image.fromarray(image), plan, v, b)))
        return
    top, left = plan.top[v, b], plan.left[v, b]
    window = image[top : top + plan.height[v, b], left : left + plan.width[v, b]]
    # The kernel is slow on rows with gaps, so the window is copied. A flip costs no more than the copy, and commutes
    # with the resize, since the filter is symmetric.
    pixels = canvas.window(window.shape)
    if plan.flip[v, b]:
        cv2.flip(window, 1, dst=pixels)
    else:
        np.copyto(pixels, window)
    resize_into(out, pixels, plan.interpolation)


def _normalise(views: Pixels, out: torch.Tensor) -> None:
    """Normalise pixels [V, H, W, 3] into `out` of the same shape: (x / 255 - mean) / std."""
    scale, shift = scale_and_shift(out.shape[2])
    rows, pixels = out.flatten(2), torch.from_numpy(views).flatten(2)
    # Constants for a whole row of 3 W values make this one vector operation per row.
    if out.dtype == torch.float32:
        torch.addcmul(shift, rows.copy_(pixels), scale, out=rows)
    else:
        rows.copy_(torch.addcmul(shift, pixels.float(), scale))
