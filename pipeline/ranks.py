"""Which rank this process is, for those who do not say it."""

import os
import sys

from pipeline.order import OrderError


def find_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """As given; else as torch.distributed knows, once it is initialised; else as `torchrun` says; else 0 of 1.

    Raises:
        OrderError: there is a world size and no rank.
    """
    if rank is not None:
        return rank, world_size or 1
    if world_size is not None:
        raise OrderError(f"which of the {world_size} ranks is this? give rank with world_size, or neither to find them")
    return _found()


def _found() -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")  # not imported: whoever initialised it has done so
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world_size)) if rank.isdecimal() and world_size.isdecimal() else (0, 1)
