"""Find the rank of this process, if the caller does not give it."""

import os
import sys
from typing import NamedTuple

from pipeline.loops import IterationError
from pipeline.order import OrderError


class Ranks(NamedTuple):
    """Rank and world size of this process."""

    rank: int
    world_size: int
    are_found: bool
    """Whether they were found, not given by the caller."""

    def check(self) -> None:
        """Check that rank and world size have not changed.

        If they were found before torch.distributed was initialised, every rank would read the same samples.

        Raises:
            IterationError: the rank or world size has changed.
        """
        if self.are_found and (now := find_ranks(None, None)) != self:
            raise IterationError(
                f"this stream was opened as rank {self.rank} of {self.world_size}, but now this process is rank "
                f"{now.rank} of {now.world_size}; open it after torch.distributed is initialised, or give rank and "
                "world_size"
            )


def find_ranks(rank: int | None, world_size: int | None) -> Ranks:
    """Rank and world size: as given, else from torch.distributed if initialised, else from `torchrun`, else 0 of 1.

    Raises:
        OrderError: a world size is given without a rank.
    """
    if rank is not None:
        return Ranks(rank, world_size or 1, are_found=False)
    if world_size is not None:
        raise OrderError(f"world_size {world_size} is given without a rank; give both, or neither to find them")
    return Ranks(*_found(), are_found=True)


def _found() -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")  # not imported: if it is initialised, it is imported
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world_size)) if rank.isdecimal() and world_size.isdecimal() else (0, 1)
