"""Existing webdataset tars, our own shards among them: the way to make shards of another size or order from shards."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import reading
from tools.shard_builder.readers.archives import tar_members
from tools.shard_builder.readers.base import Listing, Reader, ReadOptions, Record, SourceError, without_labels
from tools.shard_builder.readers.sources import RangeSource

_IMAGES = ("jpg", "jpeg", "png", "webp")


def webdataset_tars(source: Path, split: str, options: ReadOptions) -> Reader:
    """`[<split>/]*.tar`, or `<split>-*.tar` where there are some; samples are grouped by webdataset's own rules.

    The label is the number in `.cls`, or `labels` in a `.json`; where no sample has one, all are unlabelled. Classes
    have the names in `manifest.json` (of our shards) or `classes.txt` (one a line) beside the tars, else numbers.
    Metadata are what is in `.meta.json` (of our shards) or `.json`.
    """
    folder = source / split if (source / split).is_dir() else source
    tars = sorted(folder.glob(f"{split}-*.tar")) or sorted(folder.glob("*.tar"))
    if not tars:
        raise SourceError(f"expected uncompressed tars at {folder}/*.tar, none is there")
    if options.unlabelled:
        return without_labels(Listing((), lambda: _records(tars)))
    classes = _class_names(folder)
    if classes is None:
        classes = _numbers(tars)
    return Listing(classes, lambda: _checked(tars, len(classes)))


def _checked(tars: list[Path], num_classes: int) -> Iterator[Record]:
    for record in _records(tars):
        if record.label is None:
            if num_classes:
                raise SourceError(
                    f"{record.path} has no label, but others have; give it one, or pass --unlabelled to take no labels"
                )
            yield record
            continue
        labels = (record.label,) if isinstance(record.label, int) else record.label
        if not all(0 <= label < num_classes for label in labels):
            raise SourceError(f"{record.path} has label {record.label}, but there are {num_classes} classes")
        yield record


def _records(tars: list[Path]) -> Iterator[Record]:
    from webdataset.tariterators import group_by_keys  # here: it takes torch along where that is installed, two seconds

    for tar in tars:
        members = (
            {"fname": name, "data": RangeSource(str(tar), offset, num_bytes), "__url__": str(tar)}
            for name, offset, num_bytes in tar_members(tar)
        )
        with reading(tar, "a webdataset tar"):
            for sample in group_by_keys(members):
                if ext := next((ext for ext in _IMAGES if ext in sample), None):
                    path = f"{tar.name}/{sample['__key__']}.{ext}"
                    yield Record.of(
                        path, _label(sample, path), sample[ext], sample.get("meta.json", sample.get("json"))
                    )


def _label(sample: dict[str, Any], path: str) -> Label:
    try:
        if "cls" in sample:
            return int(sample["cls"].read())
        labels = json.loads(sample["json"].read()).get("labels") if "json" in sample else None
        return None if labels is None else tuple(int(label) for label in labels)
    except (ValueError, TypeError, AttributeError):
        raise SourceError(f"the label of {path} is garbled: expected a number in .cls, or labels in .json") from None


def _class_names(folder: Path) -> tuple[str, ...] | None:
    manifest, names = folder / "manifest.json", folder / "classes.txt"
    if manifest.is_file():
        with reading(manifest, "a manifest"):
            return tuple(json.loads(manifest.read_bytes())["classes"])
    if names.is_file():
        with reading(names, "a list of class names"):
            return tuple(names.read_text().splitlines())
    return None


def _numbers(tars: list[Path]) -> tuple[str, ...]:
    labels = (record.label for record in _records(tars))
    flat = itertools.chain.from_iterable((label,) if isinstance(label, int) else label or () for label in labels)
    return tuple(str(number) for number in range(max(flat, default=-1) + 1))
