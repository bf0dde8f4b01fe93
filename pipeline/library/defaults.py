"""What a URL alone means, where a config is asked for."""

import math

from pipeline.order import OrderConfig
from pipeline.stream import StreamConfig


def stream_config(data: str | StreamConfig, global_batch: int) -> StreamConfig:
    """A config as it is; for a URL the defaults, with as many lanes of those as divide the batch."""
    if isinstance(data, StreamConfig):
        return data
    return StreamConfig(shards=data, order=OrderConfig(lanes=math.gcd(OrderConfig().lanes, global_batch)))
