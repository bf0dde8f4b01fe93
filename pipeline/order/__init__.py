"""Which sample is trained on at which step: pure functions of integers (docs/order.md)."""

from pipeline.order.lanes import Order, OrderConfig, OrderError, SampleOrder, SequentialOrder, rank_slice
from pipeline.order.mixture import MixtureOrder
from pipeline.order.saved import read_position

__all__ = [
    "MixtureOrder",
    "Order",
    "OrderConfig",
    "OrderError",
    "SampleOrder",
    "SequentialOrder",
    "rank_slice",
    "read_position",
]
