"""Lines that a command prints. Names from data cannot steer the terminal: see `pipeline.printable`."""

import sys

from pipeline.printable import printable


def write_line(text: str) -> None:
    """Print one line of the result on standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def write_note(text: str) -> None:
    """Print one line about the work on standard error, at once."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()
