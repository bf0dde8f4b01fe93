"""Which rank this process is, for those who do not say it."""

import os
import sys
from typing import NamedTuple

from pipeline.loops import IterationError
from pipeline.order import OrderError


class Ranks(NamedTuple):
    """This process among those that share every batch."""

    rank: int
    world_size: int
    are_found: bool
    """Whether nobody said them."""

    def check(self) -> None:
        """Whoever finds them before torch.distributed is initialised would read the same on every rank.

        Raises:
            IterationError: now others are found.
        """
        if self.are_found and (now := find_ranks(None, None)) != self:
            raise IterationError(
                f"this stream was opened as rank {self.rank} of {self.world_size}, and now this process is rank "
                f"{now.rank} of {now.world_size}; open it after torch.distributed is initialised, or give rank and "
                "world_size"
            )


def find_ranks(rank: int | None, world_size: int | None) -> Ranks:
    """As given; else as torch.distributed knows, once it is initialised; else as `torchrun` says; else 0 of 1.

    Raises:
        OrderError: there is a world size and no rank.
    """
    if rank is not None:
        return Ranks(rank, world_size or 1, are_found=False)
    if world_size is not None:
        raise OrderError(f"which of the {world_size} ranks is this? give rank with world_size, or neither to find them")
    return Ranks(*_found(), are_found=True)


def _found() -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")  # not imported: whoever initialised it has done so
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world_size)) if rank.isdecimal() and world_size.isdecimal() else (0, 1)
