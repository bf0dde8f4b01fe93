"""The config for a URL alone."""

import math

from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig


def stream_config(data: str | StreamConfig, global_batch: int) -> StreamConfig:
    """A config is returned as it is. A URL gets the defaults, with lanes reduced to a divisor of the batch."""
    if isinstance(data, StreamConfig):
        return data
    return StreamConfig(shards=data, order=OrderConfig(lanes=math.gcd(OrderConfig().lanes, global_batch)))
