"""The order of samples: which sample at which step, as pure functions of integers (docs/order.md)."""

from pipeline.order.lanes import Order, OrderConfig, OrderError, SampleOrder, SequentialOrder, rank_slice
from pipeline.order.mixture import MixtureOrder

__all__ = [
    "MixtureOrder",
    "Order",
    "OrderConfig",
    "OrderError",
    "SampleOrder",
    "SequentialOrder",
    "rank_slice",
]
