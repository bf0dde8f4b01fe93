"""Tables on the terminal. Titles and cells are plain text, never markup of rich: names from data are among them."""

from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import printable


class _PlainConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, without markup and emoji codes. A cell may have several lines."""
        lines = "\n".join(map(printable, text.split("\n")))
        return super().render_str(lines, **{**options, "markup": False, "emoji": False})


def print_table(table: Table, file: TextIO | None = None) -> None:
    """Print a table on standard output, or into `file`."""
    _PlainConsole(file=file).print(table)
