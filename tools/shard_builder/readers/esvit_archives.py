"""The archives that the original EsViT trained from: a zip with a map, and TSV files with images in base64."""

import itertools
import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tools.shard_builder.readers.annotations import read_lines, read_pairs, reading
from tools.shard_builder.readers.base import Listing, Reader, Record, SourceError
from tools.shard_builder.readers.layout import find
from tools.shard_builder.readers.sources import Base64Source, ZipSource, read_range

_LABEL_MAP = "labelmap_22k_reorder.txt"
_HEAD_BYTES = 4096  # of a TSV line: its key and label, which come before the image


def esvit_zip(source: Path, split: str) -> Reader:
    """`<split>.zip`, and `<split>_map.txt` with the name of each image in it, a tab, and its class number."""
    archive, listing = find(source, f"{split}.zip"), find(source, f"{split}_map.txt")
    with reading(listing, "a map of names and class numbers"):
        rows = [(name.removeprefix(f"{split}.zip@/"), int(number)) for name, number in read_pairs(listing, "\t")]
        classes = tuple(str(number) for number in range(max(number for _, number in rows) + 1))
    return Listing(classes, partial(_zip_records, archive, rows))


def _zip_records(archive: Path, rows: list[tuple[str, int]]) -> Iterator[Record]:
    with reading(archive, "a zip"):
        try:
            with zipfile.ZipFile(archive) as file:
                members = {info.filename: info for info in file.infolist()}
        except zipfile.BadZipFile as error:
            raise ValueError(error) from None
    for name, label in rows:
        if (info := members.get(name)) is None:
            raise SourceError(f"{archive} holds no {name}, which {archive.stem}_map.txt lists")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SourceError(f"{archive} compresses {name} by another method than deflate; pack it again")
        source = ZipSource(
            str(archive), info.header_offset, info.compress_type, info.compress_size, info.file_size, info.CRC
        )
        yield Record.of(f"{archive.name}/{name}", label, source)


def esvit_tsv(source: Path, split: str) -> Reader:
    """`<split>.tsv` or `<split>/*.tsv`, a line an image: key, label, image in base64, with tabs between.

    A `.lineidx` beside a TSV (the offset of every line) saves reading it while the build is planned; a `.linelist`
    (numbers of lines) selects from it. The label is a class number, or JSON of the form `[{"class": NAME}]`: then
    `labelmap_22k_reorder.txt` has every name and its number.
    """
    tables = sorted([*source.glob(f"{split}.tsv"), *(source / split).glob("*.tsv")])
    if not tables:
        raise SourceError(f"expected {source / split}.tsv or {source / split}/*.tsv, neither is there")
    names: dict[str, int] = {}
    if (source / _LABEL_MAP).is_file():
        with reading(source / _LABEL_MAP, "a map of class names and numbers"):
            names = {name: int(number) for name, number in read_pairs(source / _LABEL_MAP, "\t")}

    def records() -> Iterator[Record]:
        return itertools.chain.from_iterable(_tsv_records(table, names) for table in tables)

    if names:
        classes = tuple(sorted(names, key=names.__getitem__))
    else:
        classes = tuple(str(number) for number in range(max(int(str(r.label)) for r in records()) + 1))
    return Listing(classes, records)


def _tsv_records(table: Path, names: dict[str, int]) -> Iterator[Record]:
    with reading(table, "a TSV file of keys, labels and images in base64"):
        for start, end in _lines(table):
            head = read_range(str(table), start, min(_HEAD_BYTES, end - start))
            key, label, _ = head.split(b"\t", 2)
            offset = start + len(key) + len(label) + 2
            tail = read_range(str(table), max(offset, end - 4), min(4, end - offset)).rstrip(b"\r\n")
            num_characters = end - offset - (min(4, end - offset) - len(tail))
            num_bytes = num_characters // 4 * 3 - tail.count(b"=")
            number = names[json.loads(label)[0]["class"]] if names else int(label)
            source = Base64Source(str(table), offset, num_characters, num_bytes)
            yield Record.of(f"{table.name}/{key.decode()}", number, source)


def _lines(table: Path) -> Iterator[tuple[int, int]]:
    """First and last byte + 1 of the lines to take."""
    index, selection = table.with_suffix(".lineidx"), table.with_suffix(".linelist")
    if index.is_file():
        starts = [int(line) for line in read_lines(index)]
        spans = list(itertools.pairwise([*starts, table.stat().st_size]))
    else:
        with open(table, "rb") as file:
            starts = list(itertools.accumulate((len(line) for line in file), initial=0))
        spans = list(itertools.pairwise(starts))
    return iter([spans[int(line)] for line in read_lines(selection)] if selection.is_file() else spans)
