"""What could go wrong, room by room. A row whose snippet is gone is an error: change it with the code."""

from mutants.mutant import Mutant
from mutants.table import augment, builder, checkpoints, layout, losses, order, shards, store, training

ROOMS = (order, store, shards, layout, augment, losses, training, checkpoints, builder)


def all_mutants() -> list[Mutant]:
    """Every mutant there is."""
    return [mutant for room in ROOMS for mutant in room.MUTANTS]
