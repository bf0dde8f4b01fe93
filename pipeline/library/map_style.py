"""A finished data set as a list of samples, for notebooks and for random access."""

import io
import json
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.format.manifest import Manifest
from pipeline.format.tar import Label, TarError, TarSample
from pipeline.shards.data_sets import read_manifest
from pipeline.shards.remote import RemoteShards
from pipeline.shards.samples import SampleReader
from pipeline.store import Store

_CHUNK = 64  # samples that an iteration reads at once: neighbours come in one request


class ImageError(UserError):
    """An image cannot be decoded, or no image was given."""


@dataclass(frozen=True)
class Sample:
    """One sample of a data set."""

    id: int
    """Number of the sample in the data set, as in the `ids` of a batch."""
    key: str
    label: Label
    """A position in the classes; a tuple of positions in a multi-label data set; None in an unlabelled data set."""
    class_names: tuple[str, ...]
    """The name of each label."""
    metadata: dict[str, Any]
    """Metadata that the build kept; empty if it kept none."""
    ext: str
    """Kind of the image file: "jpg", "png" or "webp"."""
    encoded: bytes = field(repr=False)
    """The image file."""

    def image(self) -> Image.Image:
        """The decoded image, RGB, as stored: the EXIF orientation is not applied.

        Raises:
            ImageError: the image cannot be decoded.
        """
        try:
            return Image.open(io.BytesIO(self.encoded)).convert("RGB")
        except Exception as error:  # decoders raise many kinds of errors on garbled bytes
            raise ImageError(f"sample {self.id} ({self.key}) cannot be decoded: {error}") from None


class Shards:
    """The samples of the data set at `url`: `shards[i]`, `len(shards)`, `for sample in shards`.

    It works as a map-style data set of torch, but needs no torch. It may be pickled and used by worker processes. Only
    the samples that you ask for are read, by range. Every byte is verified.

    Raises:
        ManifestError, StoreError: there is no readable manifest. Reading a sample also raises `ShardIndexError` if an
            index does not match the manifest, and `DamagedShardError` if bytes of a tar do not have their checksum.
    """

    def __init__(self, url: str | Path) -> None:
        self._store = Store(url)
        self.manifest: Manifest = read_manifest(self._store)
        self._reader = self._new_reader()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; labels are positions in this tuple."""
        return self.manifest.classes

    def __repr__(self) -> str:
        return f"Shards({self._store.url!r}): {len(self)} samples of {len(self.classes)} classes"

    def __len__(self) -> int:
        return self.manifest.num_samples

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        """As for a list: negative numbers count from the end, slices give lists, and `IndexError` ends the list."""
        if isinstance(index, slice):
            return self.__getitems__(range(len(self))[index])
        return self.__getitems__([operator.index(index)])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Sample]:
        """Several samples at once, in parallel requests to an object store; torch's `DataLoader` calls this."""
        ids = [self._number(index) for index in indexes]
        samples = self._reader_here().samples(np.array(ids, np.int64)) if ids else []
        return [self._described(i, sample) for i, sample in zip(ids, samples, strict=True)]

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reader = self._new_reader()

    def _new_reader(self) -> SampleReader:
        self._pid = os.getpid()
        return SampleReader(RemoteShards(self._store, self.manifest), self.manifest.shards.num_samples)

    def _reader_here(self) -> SampleReader:
        """The reader of this process. After a fork it is new: the inherited one may hold a lock."""
        if self._pid != os.getpid():
            self._reader = self._new_reader()
        return self._reader

    def _number(self, index: int) -> int:
        try:
            return range(len(self))[index]
        except IndexError:
            raise IndexError(f"{self._store.url} has no sample {index}: there are {len(self)}") from None

    def _described(self, i: int, sample: TarSample) -> Sample:
        try:
            metadata = json.loads(sample.metadata) if sample.metadata else {}
        except ValueError:
            raise TarError(f"the metadata of sample {i} ({sample.key}) of {self._store.url} is not JSON") from None
        return Sample(
            id=i,
            key=sample.key,
            label=sample.label,
            class_names=sample.class_names(self.classes),
            metadata=metadata,
            ext=sample.ext,
            encoded=sample.image,
        )
