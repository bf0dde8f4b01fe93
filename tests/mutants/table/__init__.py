"""What could go wrong, room by room."""

from mutants.mutant import Mutant
from mutants.table import training


def all_mutants() -> list[Mutant]:
    """Every mutant there is."""
    return [*training.MUTANTS]
