"""The archives of the original EsViT: a zip with a map file, and TSV files with images in base64."""

import itertools
import json
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tools.shard_builder.readers.annotations import read_lines, read_pairs, reading
from tools.shard_builder.readers.base import Listing, Other, Reader, Record, Seen, SourceError
from tools.shard_builder.readers.file_kinds import is_system_file
from tools.shard_builder.readers.labels import numbered, numbers
from tools.shard_builder.readers.layout import find
from tools.shard_builder.readers.sources import Base64Source, ZipSource, read_range
from tools.shard_builder.readers.wording import listed

_LABEL_MAP = "labelmap_22k_reorder.txt"
_IS_ENCRYPTED = 1  # a flag of a zip member
_HEAD_BYTES = 4096  # enough for the key and the label, which start a TSV line


def esvit_zip(source: Path, split: str) -> Reader:
    """Read `<split>.zip`; `<split>_map.txt` has one line per image: name in the zip, tab, class number."""
    archive, listing = find(source, f"{split}.zip"), find(source, f"{split}_map.txt")
    rows: list[tuple[str, int]] = []
    for name, text in read_pairs(listing, "\t"):
        rows.append((name.removeprefix(f"{split}.zip@/"), _number(text, f"{name} in {listing}")))
    if not rows:
        raise SourceError(f"{listing} lists no images")
    classes = numbered(str(max(number for _, number in rows)), listing)
    return Listing(classes, partial(_zip_seen, archive, rows, listing.name))


def _number(text: str, place: str) -> int:
    number = numbers(text, place)
    if not isinstance(number, int) or number < 0:
        raise SourceError(f"{place} has the label {text!r}; class numbers are 0, 1, 2 and so on")
    return number


def _zip_seen(archive: Path, rows: list[tuple[str, int]], listing: str) -> Iterator[Seen]:
    with reading(archive, "a zip"):
        try:
            with zipfile.ZipFile(archive) as file:
                members = {info.filename: info for info in file.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, struct.error) as error:
            raise ValueError(error) from None
    for name, label in rows:
        if (info := members.pop(name, None)) is None:
            raise SourceError(f"{listing} lists {name}, which {archive} does not contain, or lists it twice")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _IS_ENCRYPTED:
            raise SourceError(f"{name} in {archive} is encrypted, or not compressed with deflate; pack the zip again")
        source = ZipSource(
            str(archive), info.header_offset, info.compress_type, info.compress_size, info.file_size, info.CRC
        )
        yield Record.of(f"{archive.name}/{name}", label, source)
    for name in sorted(members):
        if not any(map(is_system_file, name.split("/"))):
            yield Other(f"{archive.name}/{name}", f"not in {listing}")


def esvit_tsv(source: Path, split: str) -> Reader:
    """Read `<split>.tsv` or `<split>/*.tsv`, one line per image: key, label, image in base64, separated by tabs.

    A `.lineidx` beside a TSV has the offset of every line; without it the whole TSV is read to plan the build. A
    `.linelist` has the numbers of the lines to take. A label is a class number, or JSON of the form
    `[{"class": NAME}]`; then `labelmap_22k_reorder.txt` has the number of every name.
    """
    alone, several = source / f"{split}.tsv", sorted((source / split).glob("*.tsv"))
    if alone.exists() == bool(several):
        there = listed(path.name for path in sorted(source.glob("*.tsv")))
        fault = "both are there; move one away" if several else f"neither is there; it holds {there or 'no TSV'}"
        raise SourceError(f"expected {alone} or {source / split}/*.tsv, {fault}")
    tables = several or [alone]
    names = _label_map(source / _LABEL_MAP)

    def seen() -> Iterator[Seen]:
        return itertools.chain.from_iterable(_tsv_seen(table, names) for table in tables)

    if names:
        return Listing(tuple(names), seen)
    largest = max(
        (item.label for item in seen() if isinstance(item, Record) and isinstance(item.label, int)), default=-1
    )
    return Listing(numbered(str(largest), source), seen)


def _label_map(path: Path) -> dict[str, int]:
    """Map class names to numbers, in the order of the numbers; empty if there is no such file."""
    if not path.is_file():
        return {}
    pairs = [(name, _number(text, f"{name} in {path}")) for name, text in read_pairs(path, "\t")]
    if sorted(number for _, number in pairs) != list(range(len(pairs))) or len({name for name, _ in pairs}) < len(
        pairs
    ):
        raise SourceError(f"{path} must number its {len(pairs)} classes from 0 on, each number once")
    return dict(sorted(pairs, key=lambda pair: pair[1]))


def _tsv_seen(table: Path, names: dict[str, int]) -> Iterator[Seen]:
    with reading(table, "a TSV file of keys, labels and images in base64"):
        spans, num_left_out = _lines(table)
        for start, end in spans:
            head = read_range(str(table), start, min(_HEAD_BYTES, end - start))
            key, label, _ = head.split(b"\t", 2)
            offset = start + len(key) + len(label) + 2
            tail = read_range(str(table), max(offset, end - 4), min(4, end - offset)).rstrip(b"\r\n")
            num_characters = end - offset - (min(4, end - offset) - len(tail))
            num_bytes = num_characters // 4 * 3 - tail.count(b"=")
            place = f"{key.decode()} in {table}"
            number = names[json.loads(label)[0]["class"]] if names else _number(label.decode(), place)
            source = Base64Source(str(table), offset, num_characters, num_bytes)
            yield Record.of(f"{table.name}/{key.decode()}", number, source)
        for number in range(num_left_out):
            yield Other(f"{table.name}/{number}", f"not in {table.stem}.linelist")


def _lines(table: Path) -> tuple[list[tuple[int, int]], int]:
    """First byte and last byte + 1 of each line to take, and the number of lines that are left out."""
    index, selection = table.with_suffix(".lineidx"), table.with_suffix(".linelist")
    if index.is_file():
        starts = [int(line) for line in read_lines(index)]
        spans = list(itertools.pairwise([*starts, table.stat().st_size]))
        if any(start < 0 or start >= end for start, end in spans):
            raise ValueError(f"{index.name} does not belong to it")
    else:
        with open(table, "rb") as file:
            starts = list(itertools.accumulate((len(line) for line in file), initial=0))
        spans = list(itertools.pairwise(starts))
    if not selection.is_file():
        return spans, 0
    chosen = [int(line) for line in read_lines(selection)]
    if len(set(chosen)) < len(chosen) or not all(0 <= line < len(spans) for line in chosen):
        raise ValueError(f"{selection.name} names a line twice, or a line beyond the {len(spans)} that exist")
    return [spans[line] for line in chosen], len(spans) - len(chosen)
