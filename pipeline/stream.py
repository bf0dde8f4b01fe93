"""Manifest -> order -> cache -> encoded samples: a stream that is a pure function of its position.

`SampleStream` yields one `EncodedBatch` a step, for ever, from the position it was set to. Its state is five
integers, counts what was *handed over* (not what was prefetched), and is refused by another data set or order.
Shards are fetched well before the step that needs them, encoded images shortly before.
"""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from pipeline import telemetry
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.fetch import prefetch
from pipeline.format.index import INDEX_DTYPE
from pipeline.format.manifest import Manifest
from pipeline.order import Order, OrderConfig, OrderError, SampleOrder, rank_slice
from pipeline.remote import open_shards
from pipeline.store import Store, read_manifest
from pipeline.window import ShardWindow

_log = logging.getLogger(__name__)


class TooManyBadSamples(UserError):
    """More images than the budget allows could not be decoded."""


class StreamConfig(Config):
    """Where the shards are and how they are brought here.

    Attributes:
        shards: URL or folder that holds a `manifest.json`.
        order: How samples mix.
        cache_dir: Local folder for the shards of a remote store, shared by the ranks of a node.
        cache_bytes: Size that `cache_dir` is kept under; 0 keeps nothing there and reads every image by range.
        shard_look_ahead_bytes: How much is fetched ahead of the step that needs it, in whole shards.
        sample_look_ahead_steps: How many steps ahead encoded images are read from disk.
        num_threads: Parallel downloads, and parallel reads.
        max_bad_samples: Different images that may fail to decode, in each process, before the run stops.
    """

    shards: str
    order: OrderConfig = OrderConfig()
    cache_dir: str = "~/.cache/esvit-streaming"
    cache_bytes: NonNegativeInt = 100_000_000_000
    shard_look_ahead_bytes: NonNegativeInt = 4_000_000_000
    sample_look_ahead_steps: NonNegativeInt = 4
    num_threads: PositiveInt = 4
    max_bad_samples: NonNegativeInt = 100


@dataclass(frozen=True)
class EncodedBatch:
    """The samples of one rank in one step. B samples; `images` are the bytes as they lie in the shard."""

    epoch: int
    step: int
    ids: NDArray[np.int64]  # [B]
    labels: NDArray[np.int32]  # [B]
    heights: NDArray[np.int64]  # [B], in pixels, before any EXIF rotation
    widths: NDArray[np.int64]  # [B]
    images: list[bytes]


class SampleStream:
    """Encoded batches of one rank, in order, resumable. Iterate; `state_dict` says where it stands."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        order: Order,
        config: StreamConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.manifest, self.order, self.config, self.rank = manifest, order, config, rank
        self._slice = rank_slice(order.global_batch, rank, world_size)
        self._cache = open_shards(store, manifest, config.cache_dir, config.cache_bytes)
        sizes = np.array([entry.num_samples for entry in manifest.shards])
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._bad: set[int] = set()
        self.position = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data; the same on every rank."""
        return self.order.num_steps

    def __iter__(self) -> Iterator[EncodedBatch]:
        positions = self._with_shards_ahead(self.position)
        config = self.config
        for batch in prefetch(
            self._load, positions, config.num_threads, config.sample_look_ahead_steps, "read-samples"
        ):
            self.position += 1
            yield batch

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """The state after `position` steps (default: those handed over so far)."""
        return {**self._identity(), "position": self.position if position is None else position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; takes effect at the next `iter()`.

        Raises:
            OrderError: the state belongs to another data set, seed, batch size or mixing.
        """
        for name, ours in self._identity().items():
            if state[name] != ours:
                raise OrderError(
                    f"cannot resume: {name.replace('_', ' ')} was {state[name]} in the checkpoint and is {ours} now, "
                    "so the order of the samples would change; use the former setting or start a new run"
                )
        self.position = int(state["position"])

    def neighbour(self, sample_id: int, reason: str) -> EncodedBatch:
        """The deterministic replacement of a sample that cannot be decoded, for the `reason` given: the next one.

        Raises:
            TooManyBadSamples: more than `max_bad_samples` of them, or all that there are, cannot be decoded.
        """
        telemetry.LOADER_BAD_SAMPLES.inc()
        shard = self._shard_of(sample_id)
        name = f"image {sample_id - self._starts[shard]} of shard {self.manifest.shards[shard].name}"
        if sample_id not in self._bad:
            self._bad.add(sample_id)
            _log.warning("%s cannot be decoded and is replaced by the next one: %s", name, reason)
        if len(self._bad) > min(self.config.max_bad_samples, self.manifest.num_samples - 1):
            raise TooManyBadSamples(
                f"{len(self._bad)} images of {self.config.shards} could not be decoded, the newest being {name}; "
                "build the shards again or raise data.stream.max_bad_samples"
            )
        return self._read(0, 0, np.array([(sample_id + 1) % self.manifest.num_samples]))

    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "manifest_digest": self.manifest.digest,
            "global_batch": self.order.global_batch,
        }
        if isinstance(self.order, SampleOrder):
            config = self.order.config
            identity.update(seed=self.order.seed, lanes=config.lanes, block_shards=config.block_shards)
        return identity

    def _local_ids(self, position: int) -> NDArray[np.int64]:
        epoch, step = divmod(position, self.order.num_steps)
        return self.order.batch(epoch, step)[self._slice]

    def _shard_of(self, ids: Any) -> Any:
        return np.searchsorted(self._starts, ids, side="right") - 1

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
        return self._read(epoch, step, self._local_ids(position))

    def _read(self, epoch: int, step: int, ids: NDArray[np.int64]) -> EncodedBatch:
        shards = self._shard_of(ids)
        places = ids - self._starts[shards]
        table = np.empty(len(ids), dtype=INDEX_DTYPE)
        images = [b""] * len(ids)
        for i in np.unique(shards):
            here = np.flatnonzero(shards == i)
            shard = self._cache.shard(int(i))
            table[here] = rows = shard.index[places[here]]
            for b, image in zip(here.tolist(), shard.read_rows(rows), strict=True):
                images[b] = image
        return EncodedBatch(
            epoch=epoch,
            step=step,
            ids=ids,
            labels=table["label"].astype(np.int32),
            heights=table["height"].astype(np.int64),
            widths=table["width"].astype(np.int64),
            images=images,
        )


def open_training_stream(
    config: StreamConfig, seed: int, global_batch: int, rank: int = 0, world_size: int = 1
) -> SampleStream:
    """The shuffled, endless stream of a training run.

    Raises:
        ManifestError, StoreError: there is no readable manifest at `config.shards`.
        OrderError: batch, lanes and ranks do not fit.
    """
    store = Store(config.shards)
    manifest = read_manifest(store)
    order = SampleOrder([entry.num_samples for entry in manifest.shards], seed, global_batch, config.order)
    return SampleStream(manifest, store, order, config, rank, world_size)
