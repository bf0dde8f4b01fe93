"""Manifests -> order -> cache -> encoded samples: a stream that is a pure function of its position.

`SampleStream` yields one `EncodedBatch` a step, for ever, from the position it was set to. Its state is a few
integers, counts what was *handed over* (not what was prefetched), and is refused by another data set or order.
Shards are fetched well before the step that needs them, encoded images shortly before.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, field_validator

from pipeline import telemetry
from pipeline.buffers import Encoded
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.format.index import INDEX_DTYPE, ROW_DTYPE
from pipeline.order import MixtureOrder, Order, OrderConfig, OrderError, SampleOrder, rank_slice
from pipeline.prefetch import prefetch
from pipeline.shards.data_sets import DataSet, JoinedDataSets, open_data_set
from pipeline.shards.interface import OpenShard
from pipeline.shards.window import ShardWindow

_NUM_REQUESTS = 16  # of a step at once, where there is no cache

_log = logging.getLogger(__name__)


class TooManyBadSamples(UserError):
    """More images than the budget allows could not be decoded."""


class Source(Config):
    """One data set of a mixture.

    Attributes:
        url: URL or folder that holds a `manifest.json`.
        weight: Its share of the samples of every step, in proportion to the weights of the others.
    """

    url: str
    weight: PositiveFloat


class StreamConfig(Config):
    """Where the shards are and how they are brought here.

    Attributes:
        shards: URL or folder that holds a `manifest.json`; or several of them with weights, [{url: ..., weight: ...}],
            of which every step has a mixture.
        order: How samples mix.
        cache_dir: Local folder for the shards of a remote store, shared by the ranks of a node.
        cache_bytes: Size that `cache_dir` is kept under; 0 keeps nothing there and reads every image by range.
        shard_look_ahead_bytes: How much is fetched ahead of the step that needs it, in whole shards.
        sample_look_ahead_steps: How many steps ahead the system is told to read encoded images from disk.
        num_threads: Parallel downloads; without a cache, steps that are read at once.
        max_bad_fraction: Share of the images of a data set that may fail to decode, rounded up, before the run stops.
            Each process counts different images since it began.
    """

    shards: Annotated[
        Annotated[str, Tag("(url)")] | Annotated[tuple[Source, ...], Tag("(list)")],
        Discriminator(lambda value: "(url)" if isinstance(value, str) else "(list)"),
    ]
    order: OrderConfig = OrderConfig()
    cache_dir: str = "~/.cache/esvit-streaming"
    cache_bytes: NonNegativeInt = 100_000_000_000
    shard_look_ahead_bytes: NonNegativeInt = 4_000_000_000
    sample_look_ahead_steps: NonNegativeInt = 4
    num_threads: PositiveInt = 4
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001

    @field_validator("shards")
    @classmethod
    def _not_empty(cls, shards: str | tuple[Source, ...]) -> str | tuple[Source, ...]:
        if shards == ():
            raise ValueError("name a data set")
        return shards

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data sets; a single one too."""
        return (Source(url=self.shards, weight=1),) if isinstance(self.shards, str) else self.shards


@dataclass(frozen=True)
class EncodedBatch:
    """The samples of one rank in one step. B samples; `images` are the bytes as they lie in the shard."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    passes: NDArray[np.int64]  # [B], how often its data set was gone through before: with the id, the key of its views
    mask: NDArray[np.bool_]  # [B], False where an evaluation's last batch is filled up
    labels: NDArray[np.int32]  # [B], positions in the classes; or MULTI_LABEL, UNLABELLED of pipeline.format.index
    heights: NDArray[np.int64]  # [B], in pixels, before any EXIF rotation
    widths: NDArray[np.int64]  # [B]
    orientations: NDArray[np.int64]  # [B], EXIF 1 to 8
    images: list[Encoded]


class SampleStream:
    """Encoded batches of one rank, in order, resumable. Iterate; `state_dict` says where it stands."""

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        order: Order,
        config: StreamConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order, self.config, self.rank = order, config, rank
        self._slice = rank_slice(order.global_batch, rank, world_size)
        self._cache = JoinedDataSets(data_sets, config.cache_dir, config.cache_bytes)
        self._starts = self._cache.shard_starts
        self._bad: list[set[int]] = [set() for _ in data_sets]
        self.position = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data; the same on every rank. Of a mixture: as many as it has samples for."""
        return self.order.num_steps

    @property
    def num_samples(self) -> int:
        """Samples of all data sets."""
        return self._cache.num_samples

    def __iter__(self) -> Iterator[EncodedBatch]:
        positions = self._with_shards_ahead(self.position)
        num_threads, look_ahead = self.config.num_threads, self.config.sample_look_ahead_steps
        is_ready = self._cache.is_stored
        for batch in prefetch(
            self._load, positions, num_threads, look_ahead, "read-samples", lambda _position: is_ready
        ):
            self.position += 1
            yield batch

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """The state after `position` steps (default: those handed over so far)."""
        return {**self._identity(), "position": self.position if position is None else position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; takes effect at the next `iter()`.

        Raises:
            OrderError: the state belongs to another data set, seed, batch size or mixing.
        """
        for name, ours in self._identity().items():
            theirs = state_dict.get(name)
            if theirs != ours:
                raise OrderError(
                    f"cannot resume: {name.replace('_', ' ')} was {theirs} in the checkpoint and is {ours} now, "
                    "so the order of the samples would change; use the former setting or start a new run"
                )
        self.position = int(state_dict["position"])

    def neighbour(self, sample_id: int, reason: str) -> EncodedBatch:
        """The deterministic replacement of a sample that cannot be decoded, for the `reason` given: the next one.

        Raises:
            TooManyBadSamples: more than `max_bad_fraction` of them, or all that there are, cannot be decoded. The
                count begins anew with the process: a restarted run meets, and counts, the same images again.
        """
        telemetry.LOADER_BAD_SAMPLES.inc()
        part, name = self._cache.part_of(sample_id), self._cache.name_of(sample_id)
        bad, fraction = self._bad[part], self.config.max_bad_fraction
        if sample_id not in bad:
            bad.add(sample_id)
            _log.warning("%s cannot be decoded and is replaced by the next one: %s", name, reason)
        data_set = self._cache.parts[part]
        num_samples = data_set.manifest.num_samples
        if len(bad) > min(math.ceil(fraction * num_samples), num_samples - 1):
            raise TooManyBadSamples(
                f"{len(bad)} of the {num_samples} images of {data_set.store.url} could not be decoded, "
                f"the newest being {name}; build the shards again or raise data.stream.max_bad_fraction from {fraction}"
            )
        return self._read(0, 0, np.array([self._cache.next_of(sample_id)]), np.zeros(1, np.int64), np.ones(1, bool))

    def _identity(self) -> dict[str, Any]:
        return {
            "manifest_digest": "+".join(part.manifest.digest for part in self._cache.parts),
            "global_batch": self.order.global_batch,
            **self.order.identity,
        }

    def _local_ids(self, position: int) -> NDArray[np.int64]:
        epoch, step = divmod(position, self.order.num_steps)
        return self.order.batch(epoch, step)[self._slice]

    def _shard_of(self, ids: Any) -> Any:
        return self._cache.shard_of(ids)

    def _with_shards_ahead(self, position: int) -> Iterator[int]:
        """Positions without end, each once the shards of its step are in the cache."""

        def steps() -> Iterator[tuple[int, list[int]]]:
            for here in itertools.count(position):
                yield here, np.unique(self._shard_of(self._local_ids(here))).tolist()

        config = self.config
        window = ShardWindow(
            self._cache, config.shard_look_ahead_bytes, config.num_threads, config.sample_look_ahead_steps + 1
        )
        return window.positions(steps())

    def _load(self, position: int) -> EncodedBatch:
        epoch, step = divmod(position, self.order.num_steps)
        passes, mask = self.order.passes(epoch, step)[self._slice], self.order.mask(step)[self._slice]
        return self._read(epoch, step, self._local_ids(position), passes, mask)

    def _read(
        self, epoch: int, step: int, ids: NDArray[np.int64], passes: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> EncodedBatch:
        shards = self._shard_of(ids)
        places = ids - self._starts[shards]
        table = np.empty(len(ids), dtype=INDEX_DTYPE)
        rows = table.view(ROW_DTYPE)
        by_shard = np.argsort(shards, kind="stable")
        ends = [*(np.flatnonzero(np.diff(shards[by_shard])) + 1).tolist(), len(ids)]
        runs = [by_shard[start:end] for start, end in itertools.pairwise([0, *ends])]
        opened = [self._cache.shard(int(shards[run[0]])) for run in runs]
        for shard, run in zip(opened, runs, strict=True):
            rows[run] = shard.rows[places[run]]
        return EncodedBatch(
            epoch=epoch,
            step=step,
            ids=ids,
            passes=passes,
            mask=mask,
            labels=table["label"].astype(np.int32),
            heights=table["height"].astype(np.int64),
            widths=table["width"].astype(np.int64),
            orientations=table["orientation"].astype(np.int64),
            images=self._images(table, [(shard, run.tolist()) for shard, run in zip(opened, runs, strict=True)]),
        )

    def _images(self, table: NDArray[np.void], runs: list[tuple[OpenShard, list[int]]]) -> list[Encoded]:
        """The images of these rows; each shard holds those of the rows beside it."""
        offsets, sizes = table["offset"].tolist(), table["size"].tolist()
        images: list[Encoded] = [b""] * len(table)

        def fill(run: tuple[OpenShard, list[int]]) -> None:
            shard, places = run
            found = shard.images([offsets[b] for b in places], [sizes[b] for b in places])
            for b, image in zip(places, found, strict=True):
                images[b] = image

        if self._cache.is_stored:
            for run in runs:
                fill(run)
        else:  # each is at least one request
            for _ in prefetch(fill, runs, _NUM_REQUESTS, len(runs), "read-ranges"):
                pass
        return images


def open_training_stream(
    config: StreamConfig, seed: int, global_batch: int, rank: int = 0, world_size: int = 1
) -> SampleStream:
    """The shuffled, endless stream of a training run.

    Raises:
        ManifestError, StoreError: there is no readable manifest at one of `config.sources`.
        OrderError: batch, lanes and ranks do not fit, or a data set is too small.
    """
    data_sets = [open_data_set(source.url) for source in config.sources]
    sizes = [data_set.shard_sizes for data_set in data_sets]
    order: Order
    if len(data_sets) == 1:
        order = SampleOrder(sizes[0], seed, global_batch, config.order)
    else:
        weights = [source.weight for source in config.sources]
        order = MixtureOrder(sizes, weights, seed, global_batch, config.order)
    return SampleStream(data_sets, order, config, rank, world_size)
