"""The plan with the fastest exact CPU kernels, on threads.

    libjpeg-turbo decode -> window -> torch's antialiased uint8 bicubic -> flip -> one colour matrix -> blur
    -> solarize -> normalised straight into the stacked output batch

Every kernel releases the interpreter lock, so plain threads use all cores and no pixel crosses a process boundary.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.decode import DECODE_ERRORS, decode
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD, BadImages
from pipeline.augment.plan import CropPlan


class CpuExecutor:
    """Renders each image's views on one of `num_threads` threads."""

    def __init__(self, num_threads: int) -> None:
        self.device = torch.device("cpu")
        # The parallelism is over images: kernels must not start threads of their own on top.
        cv2.setNumThreads(1)
        self._pool = single_threaded_pool(num_threads)

    def __call__(self, images: Sequence[bytes], plan: CropPlan) -> list[torch.Tensor]:
        """See `Executor`."""
        groups = [
            torch.empty(group.stop - group.start, len(images), *plan.sizes[group.start], 3) for group in plan.groups
        ]
        views = [view for group in groups for view in group]
        reasons: dict[int, str] = {}

        def render_image(b: int) -> None:
            try:
                image = decode(images[b])
            except DECODE_ERRORS as error:
                reasons[b] = str(error)
                return
            for v in range(plan.num_views):
                _normalise(_render(image, plan, v, b), views[v][b])

        for _ in self._pool.map(render_image, range(len(images))):
            pass
        if reasons:
            raise BadImages(reasons)
        return [group.permute(0, 1, 4, 2, 3) for group in groups]

    def close(self) -> None:
        """See `Executor`."""
        self._pool.shutdown()


def _render(image: NDArray[np.uint8], plan: CropPlan, v: int, b: int) -> NDArray[np.uint8]:
    """View `v` of sample `b` before normalisation: [H, W, 3]."""
    view = resized_window(image, plan, v, b)
    if plan.flip[v, b]:
        view = cv2.flip(view, 1)
    if plan.coloured[v, b]:
        offset = plan.pivot[v, b] @ cv2.mean(view)[:3]
        view = cv2.transform(view, np.column_stack([plan.matrix[v, b], offset]))
    if plan.sigma[v, b] > 0:
        kernel = blur_kernel(float(plan.sigma[v, b]))
        view = cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    if plan.solarize[v, b]:
        view = cv2.min(view, cv2.bitwise_not(view))  # v below 128, else 255 - v
    return view


def _normalise(view: NDArray[np.uint8], out: torch.Tensor) -> None:
    """Pixels [H, W, 3] to (x / 255 - mean) / std in float32, into `out` of the same shape."""
    scale, shift = _row_of_constants(view.shape[1])
    rows = out.flatten(1)  # along rows of 3 W values the three constants of a pixel are one vector operation
    torch.addcmul(shift, rows.copy_(torch.from_numpy(view).flatten(1)), scale, out=rows)


@lru_cache
def _row_of_constants(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    scale, shift = 1 / (255 * std), -torch.tensor(IMAGENET_MEAN, dtype=torch.float64) / std
    return scale.repeat(width).float(), shift.repeat(width).float()


def resized_window(image: NDArray[np.uint8], plan: CropPlan, v: int, b: int) -> NDArray[np.uint8]:
    """The window of view `v`, bicubic with antialiasing, 8-bit in and out: PIL's result but for rounding."""
    top, left, size = plan.top[v, b], plan.left[v, b], plan.sizes[v]
    window = image[top : top + plan.height[v, b], left : left + plan.width[v, b]]
    pixels = torch.from_numpy(window).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def blur_kernel(sigma: float) -> NDArray[np.float32]:
    """The kernel of PIL's GaussianBlur: three box filters with fractional edges, whose variances add up to sigma^2.

    One pass with the convolution of the three equals PIL's three passes but for its intermediate rounding.
    Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011.
    """
    variance = sigma * sigma / 3
    whole = int((np.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([edge, *[1.0] * (2 * whole + 1), edge]) / (2 * whole + 1 + 2 * edge)
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


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
