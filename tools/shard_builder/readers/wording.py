"""Lists and counts for messages."""

from collections.abc import Iterable, Mapping

_MAX_LISTED = 6


def listed(names: Iterable[str]) -> str:
    """The names in quotes, at most the first few."""
    every = list(names)
    rest = f" and {len(every) - _MAX_LISTED} more" if len(every) > _MAX_LISTED else ""
    return ", ".join(map(repr, every[:_MAX_LISTED])) + rest


def tally(numbers: Mapping[str, int]) -> str:
    """Counts by kind, largest first, for example ".bmp 12, .gif 3"; at most the first few."""
    every = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    rest = f" and {len(every) - _MAX_LISTED} other kinds" if len(every) > _MAX_LISTED else ""
    return ", ".join(f"{kind} {number:,}" for kind, number in every[:_MAX_LISTED]) + rest
