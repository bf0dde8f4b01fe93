"""Turn the labels in tables and tars into classes: numbers, names, lists of labels, or none.

Nothing is guessed: an ambiguous value is refused, and the message names its row.
"""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.format.tar import Label
from tools.shard_builder.readers.base import SourceError
from tools.shard_builder.readers.wording import listed

MAX_CLASSES = 1_000_000
"""Class numbers must be below this, because the manifest lists all classes."""

COLUMNS = (
    "label", "labels", "cls", "class", "class_id", "class_idx", "class_index", "class_label", "class_name", "classes",
    "label_id", "label_idx", "label_name", "target", "targets", "category", "category_id", "category_name",
    "fine_label", "fine_labels", "coarse_label",
)  # fmt: skip
"""Usual names of a column of labels, best first; upper or lower case."""

_MISSING = {"", "nan", "NaN", "None", "null", "NULL", "<NA>", "N/A"}  # without "NA", which is Namibia
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_WHOLE = re.compile(r"(0|[1-9][0-9]*)(\.0*)?")
_DIGITS = re.compile(r"[0-9]+")
_HINT = "label it, leave it out, or pass --unlabelled to take no labels at all"


def label_column(names: Iterable[str], wanted: str | None, table: object) -> tuple[str | None, tuple[str, ...]]:
    """The column of labels of a table (None: there is none), and other columns that could be meant.

    Raises:
        SourceError: the table has no column `wanted`.
    """
    names = list(names)
    if wanted is not None:
        if wanted not in names:
            raise SourceError(f"{table} has no column {wanted!r}, which --label-column names; it has {listed(names)}")
        return wanted, ()
    usual = [name for known in COLUMNS for name in names if name.lower() == known]
    return (usual[0], tuple(usual[1:])) if usual else (None, ())


def plain(value: Any, place: object) -> str | tuple[str, ...]:
    """The label in a cell as text. Equal labels give equal text: 7, 7.0 and "7" are one class.

    A list holds all labels of one image. `place` names the cell in messages.

    Raises:
        SourceError: the cell has no label, or its value cannot be a label.
    """
    if isinstance(value, list | tuple):
        return tuple(_plain_text(item, place) for item in value)
    return _plain_text(value, place)


def _plain_text(value: Any, place: object) -> str:
    if value is None or value != value or str(value) in _MISSING:
        raise SourceError(f"{place} has no label ({value!r}); {_HINT}")
    if isinstance(value, list | tuple | dict | bytes | set):
        raise SourceError(f"{place} has a label that is neither a number nor a name: {value!r:.80}")
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def classes_of(labels: set[str], place: object) -> tuple[str, ...]:
    """The classes of a set of plain labels, in the order of their numbers.

    If all labels are whole numbers, they are class numbers: 0, 1, 2 ... up to the largest. Numbers with leading zeros,
    all of one length ("007", "042"), are names. All other labels are names too. Names are sorted.

    Raises:
        SourceError: the labels look like numbers, but cannot be class numbers.
    """
    if not labels or not all(map(_NUMBER.fullmatch, labels)):
        return tuple(sorted(labels))
    if all(map(_WHOLE.fullmatch, labels)):
        return numbered(max(labels, key=lambda text: (len(text), text)), place)
    if all(map(_DIGITS.fullmatch, labels)) and len(set(map(len, labels))) == 1:
        return tuple(sorted(labels))
    odd = min(text for text in labels if not _WHOLE.fullmatch(text))
    raise SourceError(
        f"{place} holds the label {odd!r} where all labels are numbers; class numbers are 0, 1, 2 and so on, written "
        "alike; where they mark images without a label, leave these out or pass --unlabelled"
    )


def numbered(largest: str, place: object) -> tuple[str, ...]:
    """The classes "0", "1", ... up to the largest number.

    Raises:
        SourceError: the largest number is `MAX_CLASSES` or more.
    """
    if len(largest) > len(str(MAX_CLASSES)) or int(largest) >= MAX_CLASSES:
        raise SourceError(
            f"{place} holds the class number {largest:.40}; they must be below {MAX_CLASSES:,}: number the classes "
            "from 0 on, or give them names that are no numbers"
        )
    return tuple(map(str, range(int(largest) + 1)))


def numbers(value: Any, place: object) -> Label:
    """A class number, or several, from a text or a JSON value. That such classes exist is checked later.

    Raises:
        SourceError: the value is no class number.
    """
    label = plain(value, place)
    texts = (label,) if isinstance(label, str) else label
    if odd := next((text for text in texts if not re.fullmatch(r"-?[0-9]{1,18}", text)), None):
        raise SourceError(f"{place} has the label {odd!r:.80}; expected a class number")
    found = sorted({int(text) for text in texts})
    return found[0] if isinstance(label, str) else tuple(found)


class Classes:
    """The classes of the labels of a source, and the class number of each label.

    Raises:
        SourceError: the labels cannot be classes, or there are more than `MAX_CLASSES`.
    """

    def __init__(self, labels: Iterable[str | tuple[str, ...]], place: object) -> None:
        names: set[str] = set()
        label: str | tuple[str, ...] | None = None
        for label in labels:
            names.update((label,) if isinstance(label, str) else label)
            if len(names) > MAX_CLASSES:
                raise SourceError(
                    f"{place} has more than {MAX_CLASSES:,} different labels: is this the right column? "
                    "choose it with --label-column"
                )
        if label == () and not names:
            raise SourceError(f"no label of {place} names a class; pass --unlabelled to take no labels")
        self.names = classes_of(names, place)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def label(self, plain_label: str | tuple[str, ...]) -> Label:
        """The class number, or numbers, of a plain label."""
        if isinstance(plain_label, str):
            return self._numbers[plain_label]
        return tuple(sorted({self._numbers[name] for name in plain_label}))


def fault_of(label: Label, num_classes: int) -> str | None:
    """What is wrong with a label in a data set of `num_classes` classes; None if it is valid."""
    if label is None:
        return f"no label, but other images have labels; {_HINT}" if num_classes else None
    wrong = [n for n in ((label,) if isinstance(label, int) else label) if not 0 <= n < num_classes]
    return f"label {wrong[0]}, but there are {num_classes} classes" if wrong else None
