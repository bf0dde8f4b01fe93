"""The classes of a data set: check their names, compose them (NFC), or number them as in another data set."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, Seen, SourceError
from tools.shard_builder.readers.labels import fault_of

_UNCLEAN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters, ends of lines


def with_class_names(reader: Reader, source: Path, options: ReadOptions) -> Reader:
    """The reader with checked class names, changed by `options.nfc` and `options.class_list`.

    Raises:
        SourceError: a name is empty, has control characters, occurs twice, or is not in the class list.
    """
    names = reader.classes
    _check(names, source)
    if options.nfc:
        names = tuple(unicodedata.normalize("NFC", name) for name in names)
        _check(names, source)
    classes = names
    if options.class_list is not None and not names:
        raise SourceError(f"{source} has no labels, so there is nothing to number by a class list")
    if options.class_list is not None:
        classes = options.class_list
        _check(classes, "the class list")
    elif names != reader.classes and list(reader.classes) == sorted(reader.classes):
        classes = tuple(sorted(names))
    if classes == reader.classes:
        return reader
    positions = {name: position for position, name in enumerate(classes)}
    if unknown := next((name for name in names if name not in positions), None):
        raise SourceError(
            f"{source} has the class {unknown!r}, which is not in the class list{_twin(unknown, classes)}"
        )
    return _renumbered(reader, classes, [positions[name] for name in names])


def _renumbered(reader: Reader, classes: tuple[str, ...], places: list[int]) -> Listing:
    """The reader with new labels; `places` maps an old label to the new one."""

    def seen() -> Iterator[Seen]:
        for item in reader.seen():
            if not isinstance(item, Record) or item.label is None or fault_of(item.label, len(places)):
                yield item
            elif isinstance(item.label, int):
                yield item._replace(label=places[item.label])
            else:
                yield item._replace(label=tuple(sorted(places[label] for label in item.label)))

    return Listing(classes, seen, reader.notes)


def with_checked_labels(reader: Reader) -> Listing:
    """The reader, which now refuses labels without a class, and data sets that are only partly labelled."""
    num_classes = len(reader.classes)

    def seen() -> Iterator[Seen]:
        first: Record | None = None
        for item in reader.seen():
            if isinstance(item, Record):
                first = first or item
                if fault := fault_of(item.label, num_classes):
                    raise SourceError(f"{item.path} has {fault}")
                if type(item.label) is not type(first.label):
                    raise SourceError(
                        f"{first.path} and {item.path} have labels of two kinds (one label, a list of labels); "
                        "write all labels as one kind"
                    )
            yield item

    return Listing(reader.classes, seen, reader.notes)


def _check(names: tuple[str, ...], place: object) -> None:
    for name in names:
        if not name.strip() or any(unicodedata.category(character) in _UNCLEAN for character in name):
            raise SourceError(f"the class name {name!r} of {place} is no clean text; rename it")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SourceError(f"two classes of {place} have the name {twice[0]!r}; rename one of them")


def _twin(name: str, classes: tuple[str, ...]) -> str:
    """The end of a message: names the class that differs only in its Unicode form, which nobody can see."""
    same = [other for other in classes if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)]
    return f": {same[0]!a} there is {name!a} here, the same in another Unicode form; pass --nfc" if same else ""
