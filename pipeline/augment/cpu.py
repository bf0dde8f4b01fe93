"""The plan with the fastest exact CPU kernels, on threads.

    libjpeg-turbo decode -> window, flipped -> torch's antialiased uint8 bicubic -> one colour matrix -> blur
    -> solarize -> normalised straight into the stacked output batch

Every kernel releases the interpreter lock, so plain threads use all cores and no pixel crosses a process boundary.
Each thread draws on images that it keeps, and the output batches are used again: a view allocates nothing.
"""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.blur import blur_kernels
from pipeline.augment.decode import DECODE_ERRORS, decode
from pipeline.augment.executor import OUTPUT_TYPES, BadImages, Output, empty_stack, scale_and_shift
from pipeline.augment.plan import CropPlan
from pipeline.buffers import BufferPool, Encoded

Pixels = NDArray[np.uint8]
Kernels = NDArray[np.float32]
_bicubic: Any = torch._C._nn._upsample_bicubic2d_aa  # what F.interpolate calls, which takes no place for its result


class CpuExecutor:
    """Renders each image's views on one of `num_threads` threads."""

    def __init__(self, num_threads: int, output: Output = "float32") -> None:
        self.device = torch.device("cpu")
        self._dtype = OUTPUT_TYPES[output]
        self._buffers, self._canvas = BufferPool(), Canvas()
        # The parallelism is over images: kernels must not start threads of their own on top.
        cv2.setNumThreads(1)
        self._pool = single_threaded_pool(num_threads)

    def __call__(self, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        """See `Executor`."""
        stacks = [
            empty_stack(
                self._buffers, (group.stop - group.start, len(images), *plan.sizes[group.start], 3), self._dtype
            )
            for group in plan.groups
        ]
        kernels = blur_kernels(plan.sigma)
        reasons: dict[int, str] = {}

        def render_image(b: int) -> None:
            try:
                image = decode(images[b])
                plan.check_size(b, *image.shape[:2])
            except DECODE_ERRORS as error:
                reasons[b] = str(error)
                return
            for group, stack in zip(plan.groups, stacks, strict=True):
                self._render_group(image, plan, kernels, group, b, stack[:, b])

        for _ in self._pool.map(render_image, range(len(images))):
            pass
        if reasons:
            raise BadImages(reasons)
        return [stack.permute(0, 1, 4, 2, 3) for stack in stacks]

    def close(self) -> None:
        """See `Executor`."""
        self._pool.shutdown()

    def _render_group(
        self, image: Pixels, plan: CropPlan, kernels: Kernels, group: slice, b: int, out: torch.Tensor
    ) -> None:
        """The views of one size of sample `b`, into `out` [V, H, W, 3]."""
        size, num_views = plan.sizes[group.start], group.stop - group.start
        canvas = self._canvas.views(num_views + 1, size)
        views, spare = canvas[:-1], canvas[-1]
        if self._dtype == torch.uint8:
            views = out.numpy()
        for v in range(num_views):
            render_view(image, plan, kernels, group.start + v, b, views[v], spare, self._canvas)
        if self._dtype != torch.uint8:
            _normalise(views, out)


class Canvas(threading.local):
    """The 8-bit images that a thread draws on."""

    def __init__(self) -> None:
        self._views: dict[tuple[int, tuple[int, int]], Pixels] = {}
        self._window = np.empty(0, np.uint8)

    def views(self, count: int, size: tuple[int, int]) -> Pixels:
        """`count` images of `size`: [count, H, W, 3], contents undefined."""
        if (count, size) not in self._views:
            self._views[count, size] = np.empty((count, *size, 3), np.uint8)
        return self._views[count, size]

    def window(self, shape: tuple[int, ...]) -> Pixels:
        """An image of `shape` [h, w, 3], of which there is one, contents undefined."""
        num_bytes = math.prod(shape)
        if len(self._window) < num_bytes:
            self._window = np.empty(num_bytes, np.uint8)
        return self._window[:num_bytes].reshape(shape)


def render_view(
    image: Pixels, plan: CropPlan, kernels: Kernels, v: int, b: int, out: Pixels, spare: Pixels, canvas: Canvas
) -> None:
    """View `v` of sample `b` before normalisation, into `out` [H, W, 3]; `spare`, of the same shape, is overwritten."""
    coloured, blurred = plan.coloured[v, b], plan.sigma[v, b] > 0
    here, there = (spare, out) if coloured != blurred else (out, spare)  # so that the last step leaves it in `out`
    resize_window(image, plan, v, b, here, canvas)
    if coloured:
        matrix = np.empty((3, 4), np.float32)
        matrix[:, :3] = plan.matrix[v, b]
        matrix[:, 3] = plan.pivot[v, b] @ cv2.mean(here)[:3]
        cv2.transform(here, matrix, dst=there)
        here, there = there, here
    if blurred:
        kernel = kernels[v, b]
        kernel = kernel[kernel > 0]
        cv2.sepFilter2D(here, -1, kernel, kernel, dst=there, borderType=cv2.BORDER_REPLICATE)
    if plan.solarize[v, b]:
        cv2.bitwise_not(out, dst=spare)
        cv2.min(out, spare, dst=out)  # v below 128, else 255 - v


def resize_window(image: Pixels, plan: CropPlan, v: int, b: int, out: Pixels, canvas: Canvas) -> None:
    """The window of view `v`, flipped where the plan says so, bicubic with antialiasing, into `out` [H, W, 3].

    PIL's result but for rounding.
    """
    top, left = plan.top[v, b], plan.left[v, b]
    window = image[top : top + plan.height[v, b], left : left + plan.width[v, b]]
    # The kernel is slow on rows with gaps. Flipping costs no more than the copy, and a filter that is symmetric does
    # not mind whether it comes before or after.
    pixels = canvas.window(window.shape)
    if plan.flip[v, b]:
        cv2.flip(window, 1, dst=pixels)
    else:
        np.copyto(pixels, window)
    _bicubic(_channels_first(pixels), plan.sizes[v], False, out=_channels_first(out))


def _channels_first(pixels: Pixels) -> torch.Tensor:
    """[H, W, 3] as [1, 3, H, W], the same memory."""
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None])


def _normalise(views: Pixels, out: torch.Tensor) -> None:
    """Pixels [V, H, W, 3] to (x / 255 - mean) / std, into `out` of the same shape."""
    scale, shift = scale_and_shift(out.shape[2])
    rows, pixels = out.flatten(2), torch.from_numpy(views).flatten(2)
    # Along rows of 3 W values the three constants of a pixel are one vector operation.
    if out.dtype == torch.float32:
        torch.addcmul(shift, rows.copy_(pixels), scale, out=rows)
    else:
        rows.copy_(torch.addcmul(shift, pixels.float(), scale))


def single_threaded_pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads in which torch's kernels run on one core, leaving the caller's setting as it was."""
    before = torch.get_num_threads()
    all_started = threading.Barrier(num_threads)

    def start() -> None:
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="views", initializer=start)
    all_busy = threading.Barrier(num_threads)
    for future in [pool.submit(all_busy.wait) for _ in range(num_threads)]:
        future.result()
    torch.set_num_threads(before)
    return pool
