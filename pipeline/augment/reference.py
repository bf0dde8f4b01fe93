"""The executor "reference": the plan in plain PIL and torchvision calls. The other executors are compared with it.

It decodes and filters with the libraries of the original EsViT (PIL's resize and Gaussian blur).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter, ImageOps

from pipeline.augment.crop_plan import CropPlan
from pipeline.augment.decode import DECODE_ERRORS, decode_with_pil
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD, OUTPUT_TYPES, BadImages, Output
from pipeline.augment.window import draw_window
from pipeline.buffers import Encoded
from pipeline.pixels import upright


class ReferenceExecutor:
    """Renders with PIL in `num_threads` threads, one image per thread."""

    def __init__(self, num_threads: int, output: Output = "float32") -> None:
        self.device, self.batches_ahead = torch.device("cpu"), 0
        self._dtype = OUTPUT_TYPES[output]
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="reference")

    def start(self, images: Sequence[Encoded], plan: CropPlan) -> Callable[[], list[torch.Tensor]]:
        """See `Executor`; the work begins when the result is called."""
        return partial(self, images, plan)

    def __call__(self, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        """See `Executor`."""
        reasons: dict[int, str] = {}

        def views_of(b: int) -> list[torch.Tensor]:
            try:
                image = decode_with_pil(images[b])
                plan.check_size(b, image.height, image.width)
            except DECODE_ERRORS as error:
                reasons[b] = str(error)
                return []
            if plan.orientations is not None:
                image = Image.fromarray(upright(np.asarray(image), int(plan.orientations[b])))
            return [render(image, plan, v, b, self._dtype) for v in range(plan.num_views)]

        samples = list(self._pool.map(views_of, range(len(images))))
        if reasons:
            raise BadImages(reasons)
        return [
            torch.stack([torch.stack([views[v] for views in samples]) for v in range(group.start, group.stop)])
            .movedim(2, -1)
            .contiguous()
            .movedim(-1, 2)
            for group in plan.groups
        ]

    def close(self) -> None:
        """See `Executor`."""
        self._pool.shutdown()


def render(image: Image.Image, plan: CropPlan, v: int, b: int, dtype: torch.dtype) -> torch.Tensor:
    """View `v` of sample `b`: [3, H, W], normalised unless `dtype` is uint8."""
    view = draw_window(image, plan, v, b)
    if plan.coloured[v, b]:
        offset = plan.pivot[v, b] @ np.asarray(view).mean(axis=(0, 1))
        view = view.convert("RGB", tuple(np.column_stack([plan.matrix[v, b], offset]).ravel().tolist()))
    if plan.sigma[v, b] > 0:
        view = view.filter(ImageFilter.GaussianBlur(float(plan.sigma[v, b])))
    if plan.solarize[v, b]:
        view = ImageOps.solarize(view, 128)
    if dtype == torch.uint8:
        pixels: torch.Tensor = F.pil_to_tensor(view)
    else:
        pixels = F.normalize(F.to_tensor(view), IMAGENET_MEAN, IMAGENET_STD).to(dtype)
    return pixels
