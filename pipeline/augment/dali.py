"""The executor "dali": the plan as an NVIDIA DALI graph, on a GPU for training or on a CPU to compare it in tests.

All random choices come from the plan. DALI's random operators are not used: their numbers depend on the slot in the
batch. The GPU graph is the CPU graph with another `device`. The plan's arrays are arguments and predicates of the
graph and stay on the CPU.

Outputs. DLPack hands DALI's outputs to torch without a copy. They are then copied into one stack per size, which the
student would otherwise have to do. On a GPU no thread waits for the GPU: DALI uses its own CUDA stream, DLPack makes
torch's current stream wait for the views, and the copy is queued on torch's stream. DALI must not reuse the memory of
the views before the copy has read them. So the views are held, with a CUDA event, for two more calls; by then the event
has long passed. The stacks belong to the stream that was current in the calling thread.

DALI renders one batch while the caller waits for another and stacks it. The pipeline has depth 1: DALI's own prefetch
would ask for two batches before it returns the first.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types

from pipeline.augment.blur import blur_kernels
from pipeline.augment.crop_plan import CropPlan, Interpolation
from pipeline.augment.decode import DECODE_ERRORS, decode_with_pil, image_size
from pipeline.augment.executor import IMAGENET_MEAN, IMAGENET_STD, OUTPUT_TYPES, BadImages, Output, empty_stack
from pipeline.buffers import BufferPool, Encoded
from pipeline.pixels import mirrored, transposed

# Arrays of the plan, each fed as [V, ...] per sample.
_INPUTS = ("encoded", "window", "coloured", "matrix", "pivot", "blurred", "kernel", "solarize")
# One per sample, where photographs are turned upright.
_ORIENTATION_INPUTS = ("turned", "mirrored")
_DALI_TYPES = {"float32": types.FLOAT, "float16": types.FLOAT16}
_FILTERS: dict[Interpolation, Any] = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
_BATCHES_HELD = 2


class DaliExecutor:
    """One DALI pipeline on `device`, rebuilt when the batch size or the views change."""

    def __init__(self, num_threads: int, device: torch.device, output: Output = "float32") -> None:
        self.device, self.batches_ahead = device, 1
        self._num_threads, self._output = num_threads, output
        self._shape: tuple[Any, ...] = ()
        self._pipeline: Any = None
        self._buffers = BufferPool()
        self._held: deque[tuple[list[torch.Tensor], torch.cuda.Event]] = deque()

    def __call__(self, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        """See `Executor`."""
        return self.start(images, plan)()

    def start(self, images: Sequence[Encoded], plan: CropPlan) -> Callable[[], list[torch.Tensor]]:
        """See `Executor`; DALI works on its own threads from here on."""
        # DALI decodes decompression bombs until memory runs out, and a window outside of its image ends the process.
        if _refused(images, lambda b, image: plan.check_size(b, *image_size(image))):
            raise BadImages(_undecodable(images, plan))
        self._build_for(len(images), plan)
        feeds = {"encoded": [np.frombuffer(image, np.uint8) for image in images], **_plan_arrays(plan)}
        for name, feed in feeds.items():
            self._pipeline.feed_input(name, feed)
        self._pipeline.schedule_run()
        return partial(self._finish, self._pipeline, images, plan)

    def _finish(self, pipeline: Any, images: Sequence[Encoded], plan: CropPlan) -> list[torch.Tensor]:
        if pipeline is not self._pipeline:
            return self(images, plan)  # an earlier batch failed, and this one was lost with the old pipeline
        try:
            outputs = pipeline.outputs()
        except RuntimeError:
            # One bad image fails the whole batch and leaves the pipeline unusable.
            self.close()
            undecodable = _undecodable(images, plan)
            if undecodable:
                raise BadImages(undecodable) from None
            raise
        views = [torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs]
        stacks = [self._stack(views[group]) for group in plan.groups]
        if self.device.type == "cuda":
            self._hold(views)
        return stacks

    def close(self) -> None:
        """See `Executor`."""
        while self._held:
            self._held.popleft()[1].synchronize()
        self._pipeline, self._shape = None, ()

    def _build_for(self, batch_size: int, plan: CropPlan) -> None:
        shape = (batch_size, plan.sizes, plan.orientations is not None, plan.interpolation)
        if self._shape == shape:
            return
        on_gpu = self.device.type == "cuda"
        self._pipeline = multi_crop_graph(
            plan.sizes,
            "gpu" if on_gpu else "cpu",
            self._output,
            plan.orientations is not None,
            plan.interpolation,
            batch_size=batch_size,
            num_threads=self._num_threads,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,  # so an output's memory lives as long as a tensor refers to it
        )
        self._pipeline.build()
        self._shape = shape

    def _stack(self, views: list[torch.Tensor]) -> torch.Tensor:
        """V views [B, H, W, 3] as [V, B, 3, H, W]."""
        shape = (len(views), *views[0].shape)
        on_gpu = self.device.type == "cuda"
        stack = (
            torch.empty(shape, dtype=OUTPUT_TYPES[self._output], device=self.device)
            if on_gpu
            else empty_stack(self._buffers, shape, OUTPUT_TYPES[self._output])
        )
        return torch.stack(views, out=stack).permute(0, 1, 4, 2, 3)

    def _hold(self, views: list[torch.Tensor]) -> None:
        """Keep DALI's memory until torch has read it. Waits only for the batch before the last, so hardly ever."""
        stacked = torch.cuda.Event()  # type: ignore[no-untyped-call]
        stacked.record(torch.cuda.current_stream(self.device))
        self._held.append((views, stacked))
        while len(self._held) > _BATCHES_HELD:
            self._held[0][1].synchronize()
            self._held.popleft()


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def multi_crop_graph(
    sizes: tuple[tuple[int, int], ...],
    device: str,
    output: Output = "float32",
    turns_upright: bool = False,
    interpolation: Interpolation = "bicubic",
) -> tuple[Any, ...]:
    """The graph: one decode, then every view. Outputs one [H, W, 3] tensor per view and sample."""
    encoded, window, coloured, matrix, pivot, blurred, kernel, solarize = (
        fn.external_source(name=name, batch=True) for name in _INPUTS
    )
    image = fn.decoders.image(
        encoded,
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        # Interpolated chroma, as in libjpeg-turbo. The plan turns images upright: if the decoder read a file's
        # orientation differently from the index, windows would lie outside of the image.
        jpeg_fancy_upsampling=True,
        adjust_orientation=False,
    )
    if turns_upright:
        image = _upright(image)
    views = []
    for v, size in enumerate(sizes):
        view = fn.resize(
            image,
            size=size,
            # A flip is a window whose start and end of x are swapped.
            roi_start=window[v, 0:2],
            roi_end=window[v, 2:4],
            interp_type=_FILTERS[interpolation],
            antialias=True,
        )
        if coloured[v]:
            mean = fn.reductions.mean(view, axes=(0, 1))
            shift = fn.reductions.sum((pivot[v].gpu() if device == "gpu" else pivot[v]) * mean, axes=1)
            mapped = fn.coord_transform(view, M=matrix[v], dtype=types.FLOAT) + shift
            view = fn.cast(math.clamp(mapped, 0, 255), dtype=types.UINT8)
        if blurred[v]:
            taps = kernel[v].gpu() if device == "gpu" else kernel[v]
            columns = fn.filter(view, fn.reshape(taps, shape=[-1, 1]), border="clamp", dtype=types.FLOAT)
            rows = fn.filter(columns, fn.reshape(taps, shape=[1, -1]), border="clamp", dtype=types.FLOAT)
            view = fn.cast(rows, dtype=types.UINT8)
        if solarize[v]:
            view = fn.lookup_table(
                view,
                keys=list(range(256)),
                values=[255 - value if value >= 128 else value for value in range(256)],
                dtype=types.UINT8,
            )
        views.append(view if output == "uint8" else _normalise(view, _DALI_TYPES[output]))
    return tuple(views)


def _upright(image: Any) -> Any:
    turned, mirrored = (fn.external_source(name=name, batch=True) for name in _ORIENTATION_INPUTS)
    if turned[0]:
        image = fn.transpose(image, perm=[1, 0, 2], transpose_layout=False)
    if turned[1]:
        image = fn.flip(image, horizontal=mirrored[0], vertical=mirrored[1])
    return image


def _normalise(view: Any, dtype: Any) -> Any:
    return fn.crop_mirror_normalize(
        view,
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
        dtype=dtype,
        output_layout="HWC",
    )


def _plan_arrays(plan: CropPlan) -> dict[str, Any]:
    """The plan in DALI's form: sample-major, float arguments, windows as (y0, x0, y1, x1)."""
    left, right = plan.left, plan.left + plan.width
    start, end = np.where(plan.flip, right, left), np.where(plan.flip, left, right)
    window = np.stack([plan.top, start, plan.top + plan.height, end], axis=-1).astype(np.float32)
    arrays = {
        "window": window,
        "coloured": plan.coloured,
        "matrix": plan.matrix,
        "pivot": plan.pivot,
        "blurred": plan.sigma > 0,
        "kernel": blur_kernels(plan.sigma),
        "solarize": plan.solarize,
    }
    feeds = {name: np.ascontiguousarray(array.swapaxes(0, 1)) for name, array in arrays.items()}
    if plan.orientations is not None:
        axes = mirrored(plan.orientations)
        feeds["turned"] = np.stack([transposed(plan.orientations), axes.any(axis=0)], axis=1)
        feeds["mirrored"] = np.ascontiguousarray(axes.T.astype(np.int32))
    return feeds


def _undecodable(images: Sequence[Encoded], plan: CropPlan) -> dict[int, str]:
    def decode(b: int, encoded: Encoded) -> None:
        image = decode_with_pil(encoded)
        plan.check_size(b, image.height, image.width)

    return _refused(images, decode)


def _refused(images: Sequence[Encoded], take: Callable[[int, Encoded], object]) -> dict[int, str]:
    """The places of images for which `take` raises a decoding error, with its message."""
    reasons = {}
    for b, image in enumerate(images):
        try:
            take(b, image)
        except DECODE_ERRORS as error:
            reasons[b] = str(error)
    return reasons
