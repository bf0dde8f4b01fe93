"""The contestants of `pipeline-bench crops`: our executors, parts of their work, and other implementations.

reference, cpu, dali   the executors of the plan
original               as the original EsViT: PIL and torchvision transforms in a torch DataLoader, with one worker
                       process per thread
dali-native            DALI's own webdataset reader and random operators on the same images: the price of exactness
floor-decode           decoding with libjpeg-turbo only
floor-resize           decoding, and resizing the windows of the plan with the kernel of `cpu`
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.augment import EXECUTORS, CropPlan, Executor, Output, Planner, Recipe, build_executor, normalised
from pipeline.augment import cpu as kernels
from pipeline.augment.decode import decode
from pipeline.augment.threads import Threads
from pipeline.errors import UserError
from pipeline.loader.rendering import Neighbour, Rendered, render
from pipeline.stream.encoded import EncodedBatch

CONTESTANTS = (*EXECUTORS, "original", "dali-native", "floor-decode", "floor-resize")


class Contestant(Protocol):
    """Something that turns encoded batches into views, or does a part of that work."""

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """Process all batches; returns when the last view is finished."""
        ...

    def close(self) -> None:
        """Release threads and processes."""
        ...


class ExecutorContestant:
    """An executor of the plan. The time includes planning, and the copy of the views to `device`.

    Attributes:
        transfer_s: Total time so far to copy views from the CPU to the GPU and normalise them there.
    """

    def __init__(
        self,
        executor: Executor,
        planner: Planner,
        neighbour: Neighbour,
        device: torch.device,
    ) -> None:
        self._executor, self._planner, self._neighbour, self._device = executor, planner, neighbour, device
        self.transfer_s = 0.0

    def views(self, batch: EncodedBatch) -> list[torch.Tensor]:
        """The views of one batch."""
        return self.rendered(batch)[0]

    def rendered(self, batch: EncodedBatch) -> Rendered:
        """The views of one batch, and the batch, in which undecodable images are replaced."""
        return next(self._rendered([batch]))

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """See `Contestant`."""
        for _ in map(self._deliver, self._rendered(batches)):
            pass

    def _rendered(self, batches: Sequence[EncodedBatch]) -> Iterator[Rendered]:
        return render(batches, self._planner, self._executor, self._neighbour)

    def _deliver(self, rendered: Rendered) -> None:
        """Move the views to the device and normalise them; the result is thrown away."""
        begin = time.perf_counter()
        for group in rendered[0]:
            normalised(group.to(self._device))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            if self._executor.device.type == "cpu":
                self.transfer_s += time.perf_counter() - begin

    def close(self) -> None:
        """See `Contestant`."""
        self._executor.close()


class Floor:
    """The part of the work that no executor on the CPU can avoid."""

    def __init__(self, planner: Planner, num_threads: int, resize: bool) -> None:
        self._planner, self._resize = planner, resize
        self._threads = Threads(num_threads)
        self._canvas = kernels.Canvas()

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """See `Contestant`."""
        for batch in batches:
            plan = self._planner(batch.passes, batch.ids, batch.heights, batch.widths)

            def work(b: int, batch: EncodedBatch = batch, plan: CropPlan = plan) -> None:
                image = decode(batch.images[b])
                views = [view for stack in self._canvas.stacks(plan) for view in stack] if self._resize else []
                for v, view in enumerate(views):
                    kernels.resize_window(image, plan, v, b, view, self._canvas)

            self._threads.for_each(work, len(batch.images))

    def close(self) -> None:
        """See `Contestant`."""
        self._threads.close()


@dataclass(frozen=True)
class Conditions:
    """The settings that all contestants of a run share."""

    num_threads: int
    device: torch.device
    output: Output
    recipe: Recipe
    planner: Planner
    neighbour: Neighbour


def build_contestant(name: str, given: Conditions) -> Contestant:
    """The contestant called `name`.

    Raises:
        UserError: the name is unknown, or the contestant cannot run on this machine.
    """
    if name in EXECUTORS:
        executor = build_executor(name, given.num_threads, given.device, given.output)
        return ExecutorContestant(executor, given.planner, given.neighbour, given.device)
    if name == "original":
        from pipeline.bench.original import Original

        return Original(given.recipe, given.num_threads)
    if name == "dali-native":
        from pipeline.bench.native import DaliNative

        return DaliNative(given.recipe, given.num_threads, given.device)
    if name in ("floor-decode", "floor-resize"):
        return Floor(given.planner, given.num_threads, resize=name == "floor-resize")
    raise UserError(f"unknown executor '{name}'; choose one of {', '.join(CONTESTANTS)}")
