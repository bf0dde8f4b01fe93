"""What is compared: the executors, the floors under them, and the ways other people do it.

reference, cpu, dali   the executors of the plan
original               the original EsViT's way: PIL and torchvision transforms in a torch DataLoader, one worker
                       process a thread
dali-native            DALI's own webdataset reader and random operators on the same images: what exactness costs
floor-decode           libjpeg-turbo alone
floor-resize           decoding, and the windows of the plan resized with the kernel of `cpu`, nothing else
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
        """Process all batches; returns when the last view is there."""
        ...

    def close(self) -> None:
        """Release threads and processes."""
        ...


class ExecutorContestant:
    """An executor of the plan: planning included, and where `device` is a GPU, the way of the views to it.

    Attributes:
        transfer_s: Time in which views made on the CPU were copied to the device and normalised there, so far.
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
        """The views of one batch, and the batch with images that cannot be decoded replaced."""
        return next(self._rendered([batch]))

    def run(self, batches: Sequence[EncodedBatch]) -> None:
        """See `Contestant`."""
        for _ in map(self._deliver, self._rendered(batches)):
            pass

    def _rendered(self, batches: Sequence[EncodedBatch]) -> Iterator[Rendered]:
        return render(batches, self._planner, self._executor, self._neighbour)

    def _deliver(self, rendered: Rendered) -> None:
        """To the device, normalised; nothing is kept."""
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
    """What all contestants of a run share."""

    num_threads: int
    device: torch.device
    output: Output
    recipe: Recipe
    planner: Planner
    neighbour: Neighbour


def build_contestant(name: str, given: Conditions) -> Contestant:
    """The contestant called `name`.

    Raises:
        UserError: there is none of that name, or it cannot run here.
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
