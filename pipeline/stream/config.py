"""The configuration of a stream: which shards, in which order, and how they are fetched."""

from typing import Annotated, Any

from pydantic import ByteSize, Discriminator, Field, NonNegativeInt, PositiveInt, Tag, field_validator

from pipeline.config import Config
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig


class Source(Config):
    """One data set of a mixture.

    Attributes:
        url: URL or folder that holds a `manifest.json`.
        weight: Its share of the samples of every step, relative to the other weights; at most a million.
    """

    url: str
    weight: Annotated[float, Field(gt=0, le=1e6)]


class StreamConfig(Config):
    """Where the shards are, and how they are fetched.

    Attributes:
        shards: URL or folder that holds a `manifest.json`; or a mixture of several with weights,
            [{url: ..., weight: ...}].
        order: How samples mix.
        cache: The local copy of the shards of a remote store; `off` keeps no copy and reads every image by range.
        shard_look_ahead_bytes: Amount of shards fetched before a step needs them; may be written as 4GB.
        sample_look_ahead_steps: Steps ahead of use at which the system starts to read encoded images from disk.
        num_threads: Parallel downloads; without a cache, steps that are read at once.
        max_bad_fraction: Share of the images of a data set that may fail to decode, rounded up, before the run stops.
            Each process counts each bad image once.
    """

    shards: Annotated[
        Annotated[str, Tag("(url)")] | Annotated[tuple[Source, ...], Tag("(list)")],
        Discriminator(lambda value: "(url)" if isinstance(value, str) else "(list)"),
    ]
    order: OrderConfig = OrderConfig()
    cache: CacheConfig | None = CacheConfig()
    shard_look_ahead_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(4_000_000_000)
    sample_look_ahead_steps: NonNegativeInt = 4
    num_threads: PositiveInt = 4
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001

    @field_validator("shards")
    @classmethod
    def _not_empty(cls, shards: str | tuple[Source, ...]) -> str | tuple[Source, ...]:
        if shards == ():
            raise ValueError("name a data set")
        return shards

    @field_validator("cache", mode="before")
    @classmethod
    def _may_be_off(cls, cache: Any) -> Any:
        if cache is None or cache is False or cache == "off":  # YAML reads a bare off as False
            return None
        if not isinstance(cache, dict | CacheConfig):
            raise ValueError("write 'off', or 'folder' and 'max_bytes' below it")
        return cache

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data sets, also if there is only one."""
        return (Source(url=self.shards, weight=1),) if isinstance(self.shards, str) else self.shards
