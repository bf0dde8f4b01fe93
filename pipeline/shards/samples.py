"""Read samples by id: rows of the index, images, keys, or whole samples. Every byte is verified when it is read.

The id of a sample is its place in the data sets, shard by shard.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipeline import telemetry
from pipeline.buffers import BufferPool, Encoded
from pipeline.errors import UserError
from pipeline.format.checksum import checksum
from pipeline.format.index import INDEX_DTYPE, ROW_DTYPE, Index, ends
from pipeline.format.tar import TarError, TarSample, parse_key, parse_sample
from pipeline.prefetch import prefetch
from pipeline.shards.interface import OpenShard, ShardSource

_NUM_REQUESTS = 16  # at once, without a cache
_BUFFER_STEP = 2**20  # buffers of a few sizes only, so that they are used again

_log = logging.getLogger(__name__)

IsSound = Callable[[int, memoryview], bool]
"""Whether the bytes read for place `b` of a batch have their checksum."""


class DamagedShardError(UserError):
    """The bytes of a sample do not have the checksum of the index, also when they are read again."""


class Located(NamedTuple):
    """The location of N samples."""

    table: Index
    """The row of the index of each sample [N]."""
    places: NDArray[np.int64]
    """The number of each sample in its shard [N]."""
    runs: list[tuple[int, OpenShard, list[int]]]
    """Each shard: its number, itself, and the places in [N] of its samples."""


class SampleReader:
    """Reads samples from `shards`, which have `sizes` [N] samples. Thread-safe.

    Every method raises `CacheError`, `ShardIndexError` or `StoreError` if a shard cannot be opened or read, and
    `DamagedShardError` if its bytes are not those that were built. Bytes of a damaged copy are fetched again first.
    """

    def __init__(self, shards: ShardSource, sizes: NDArray[np.int64]) -> None:
        self._shards = shards
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._pool = BufferPool()

    def locate(self, ids: NDArray[np.int64]) -> Located:
        """Rows and shards of the samples `ids` [N]; opens the shards."""
        numbers = np.searchsorted(self._starts, ids, side="right") - 1
        places = ids - self._starts[numbers]
        table = np.empty(len(ids), dtype=INDEX_DTYPE)
        rows = table.view(ROW_DTYPE)
        by_shard = np.argsort(numbers, kind="stable")
        stops = [*(np.flatnonzero(np.diff(numbers[by_shard])) + 1).tolist(), len(ids)]
        runs = []
        for start, stop in itertools.pairwise([0, *stops]):
            run = by_shard[start:stop]
            number = int(numbers[run[0]])
            shard = self._shards.shard(number)
            rows[run] = shard.rows[places[run]]
            runs.append((number, shard, run.tolist()))
        return Located(table, places, runs)

    def begin_images(self, located: Located) -> Callable[[], list[Encoded]]:
        """Begin to read the encoded images; call the function returned for the images.

        From a local disk, the system reads ahead, and the images are read when the function is called: a thread that
        waits for the interpreter lock after each image would take longer. From a store they are read now.
        """
        if not self._shards.is_stored:
            images = self.images(located)
            return lambda: images
        offsets, sizes = located.table["offset"].tolist(), located.table["size"].tolist()
        for _, shard, run in located.runs:
            shard.will_need([offsets[b] for b in run], [sizes[b] for b in run])
        return lambda: self.images(located)

    def images(self, located: Located) -> list[Encoded]:
        """The encoded images."""
        wanted = located.table["checksum"].tolist()
        return self._read(
            located,
            located.table["offset"].tolist(),
            located.table["size"].tolist(),
            lambda b, content: checksum(content) == wanted[b],
        )

    def keys(self, ids: NDArray[np.int64]) -> list[str]:
        """The keys. Only the tars have them, so the head of each sample is read. Evicted shards are fetched again."""
        located = self.locate(ids)
        begins, wanted = self._begins(located), located.table["head_checksum"].tolist()
        sizes = located.table["offset"].astype(np.int64) - begins
        heads = self._read(located, begins.tolist(), sizes.tolist(), lambda b, content: checksum(content) == wanted[b])
        return list(map(parse_key, heads))

    def samples(self, ids: NDArray[np.int64]) -> list[TarSample]:
        """Each whole sample from its tar: key, label, metadata, image.

        Raises:
            TarError: the index points at bytes that are no sample, but has their checksum.
        """
        located = self.locate(ids)
        table, begins = located.table, self._begins(located)
        heads = (table["offset"].astype(np.int64) - begins).tolist()
        sizes, wanted = table["size"].tolist(), table[["head_checksum", "checksum"]].tolist()

        def is_sound(b: int, content: memoryview) -> bool:
            head, image = content[: heads[b]], content[heads[b] : heads[b] + sizes[b]]
            return bool((checksum(head), checksum(image)) == wanted[b])

        contents = self._read(located, begins.tolist(), (ends(table) - begins).tolist(), is_sound)
        rows = zip(ids.tolist(), begins.tolist(), contents, strict=True)
        return [self._parse(number, begin, content) for number, begin, content in rows]

    def shard_of(self, number: int) -> int:
        """The number of the shard of a sample."""
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _begins(self, located: Located) -> NDArray[np.int64]:
        """The byte of the tar where each sample begins: where the one before it ends."""
        begins = np.zeros(len(located.table), np.int64)
        for _, shard, run in located.runs:
            later = [b for b in run if located.places[b]]  # the first sample of a shard begins at byte 0
            begins[later] = ends(shard.rows.view(INDEX_DTYPE)[located.places[later] - 1])
        return begins

    def _parse(self, number: int, begin: int, content: Encoded) -> TarSample:
        try:
            return parse_sample(content, begin, self._shards.url(self.shard_of(number)))
        except TarError as error:
            raise TarError(f"{error}; run 'shard-builder verify'") from None

    def _read(self, located: Located, offsets: Sequence[int], sizes: Sequence[int], is_sound: IsSound) -> list[Encoded]:
        """The bytes at these offsets in the tars of the samples, in one buffer that is used again."""
        stops = list(itertools.accumulate(sizes))
        buffer = self._buffer(stops[-1])
        contents = [buffer[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]

        def fill(run: tuple[int, OpenShard, list[int]]) -> None:
            number, shard, places = run
            shard.read_into([offsets[b] for b in places], [contents[b] for b in places])
            damaged = [b for b in places if not is_sound(b, contents[b])]
            if damaged:
                self._read_again(number, shard, damaged, offsets, contents, is_sound)

        if self._shards.is_stored or len(located.runs) == 1:
            for run in located.runs:
                fill(run)
        else:  # each run is at least one request
            for _ in prefetch(fill, located.runs, _NUM_REQUESTS, len(located.runs), "read-ranges"):
                pass
        return [content.toreadonly() for content in contents]

    def _read_again(
        self,
        number: int,
        shard: OpenShard,
        places: Sequence[int],
        offsets: Sequence[int],
        contents: Sequence[memoryview],
        is_sound: IsSound,
    ) -> None:
        """Read damaged samples from a fresh copy of their shard."""
        url = self._shards.url(number)
        telemetry.STORE_ERRORS.labels(kind="damaged").inc()
        _log.warning("%d images read from a copy of %s do not have their checksums; reading it again", len(places), url)
        fresh = self._shards.renewed(number, shard)
        fresh.read_into([offsets[b] for b in places], [contents[b] for b in places])
        for b in places:
            if not is_sound(b, contents[b]):
                raise DamagedShardError(
                    f"{url} does not have the checksum of its index at bytes {offsets[b]} to "
                    f"{offsets[b] + len(contents[b])}: it was damaged, cut or replaced; "
                    "run 'shard-builder verify' and copy or build it again"
                )

    def _buffer(self, num_bytes: int) -> memoryview:
        capacity = -(-max(num_bytes, 1) // _BUFFER_STEP) * _BUFFER_STEP
        return memoryview(cast(Any, self._pool.empty((1, capacity), np.uint8)[0]))[:num_bytes]
