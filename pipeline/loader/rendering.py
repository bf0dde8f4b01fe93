"""Encoded batches to views: plan, executor, and the replacement of images that cannot be decoded."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from pipeline import telemetry, waiting
from pipeline.augment import BadImages, Executor, Planner
from pipeline.stream.encoded import EncodedBatch

Neighbour = Callable[[int, str], EncodedBatch]
Rendered = tuple[list[torch.Tensor], EncodedBatch]


def render(
    batches: Iterable[EncodedBatch], planner: Planner, executor: Executor, neighbour: Neighbour
) -> Iterator[Rendered]:
    """Yield the views of each batch, and the batch. An undecodable image is replaced by its `neighbour` in both.

    The executor renders up to `batches_ahead` batches ahead of the caller, never past the last batch.
    """
    under_way: deque[_Rendering] = deque()
    for encoded in batches:
        under_way.append(_Rendering(encoded, planner, executor, neighbour))
        if len(under_way) > executor.batches_ahead:
            yield under_way.popleft().finish()
    while under_way:
        yield under_way.popleft().finish()


class _Rendering:
    """A batch in progress. The loops below end, since `neighbour` raises after too many bad images."""

    def __init__(self, batch: EncodedBatch, planner: Planner, executor: Executor, neighbour: Neighbour) -> None:
        self._batch, self._planner, self._executor, self._neighbour = batch, planner, executor, neighbour
        self._seconds = 0.0
        with self._at_work():
            self._views = self._start()

    def finish(self) -> Rendered:
        """Wait for the views."""
        with self._at_work():
            views = self._wait()
        telemetry.LOADER_AUGMENT_SECONDS.observe(self._seconds)
        return views, self._batch

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        begin = time.perf_counter()
        with waiting.phase(f"views of step {self._batch.step}"):
            yield
        self._seconds += time.perf_counter() - begin

    def _wait(self) -> list[torch.Tensor]:
        while True:
            try:
                return self._views()
            except BadImages as bad:
                self._replace(bad)
                self._views = self._start()

    def _start(self) -> Callable[[], list[torch.Tensor]]:
        while True:
            batch = self._batch
            plan = self._planner(batch.passes, batch.ids, batch.heights, batch.widths, batch.orientations)
            try:
                return self._executor.start(batch.images, plan)
            except BadImages as bad:
                self._replace(bad)

    def _replace(self, bad: BadImages) -> None:
        ids = self._batch.ids
        substitutes = {b: self._neighbour(int(ids[b]), reason) for b, reason in bad.reasons.items()}
        self._batch = _replace_samples(self._batch, substitutes)


def _replace_samples(batch: EncodedBatch, substitutes: dict[int, EncodedBatch]) -> EncodedBatch:
    images = list(batch.images)
    columns = {name: getattr(batch, name).copy() for name in ("ids", "labels", "heights", "widths", "orientations")}
    for b, substitute in substitutes.items():
        images[b] = substitute.images[0]
        for name, column in columns.items():
            column[b] = getattr(substitute, name)[0]
    return replace(batch, images=images, **columns)
