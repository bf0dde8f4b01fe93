"""Suggestions for a mistyped word."""

from collections.abc import Iterable
from difflib import get_close_matches

_MIN_SIMILARITY = 0.6  # difflib's own limit: most letters in the same order
_MAX_SUGGESTIONS = 3


def nearest(word: str, choices: Iterable[str]) -> list[str]:
    """The choices most like `word`, best first: those that differ in case only, else those with a similar spelling."""
    known = list(choices)
    equal = [choice for choice in known if choice.lower() == word.lower()]
    return equal or get_close_matches(word, known, _MAX_SUGGESTIONS, _MIN_SIMILARITY)


def did_you_mean(suggestions: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'a' or 'b'?", or "" without suggestions."""
    quoted = [f"'{suggestion}'" for suggestion in suggestions]
    return f"; did you mean {' or '.join(quoted)}?" if quoted else ""
