"""Read webdataset tars, our own shards included: this also changes the size or order of existing shards."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.format.tar import Label
from tools.shard_builder.readers.annotations import reading
from tools.shard_builder.readers.archives import Member, tar_members
from tools.shard_builder.readers.base import Listing, Lost, Other, Reader, ReadOptions, Record, Seen, SourceError
from tools.shard_builder.readers.file_kinds import is_image_name, suffix_of
from tools.shard_builder.readers.labels import numbered, numbers
from tools.shard_builder.readers.sources import RangeSource
from tools.shard_builder.readers.tar_files import find_tars

_PREFERRED = ("jpg", "jpeg", "png", "webp")  # if a sample has several images
_LABELS = ("cls", "json")
_METADATA = "meta.json"
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


class _Sample(NamedTuple):
    path: str
    """Name of the tar, slash, key."""
    tar: Path
    members: dict[str, Member]
    """By extension: the part of the name after the first dot, in lower case."""


def webdataset_tars(source: Path, split: str, options: ReadOptions) -> Reader:
    """Read the tars that `tar_files.py` finds. Samples are grouped as webdataset does: a key ends at the first dot.

    A label is the number in `.cls`, or `label` or `labels` in `.json`. If no sample has a label, all are unlabelled.
    Class names come from `manifest.json` (our shards) or `classes.txt` (one per line) beside the tars; without these
    files classes are numbers. The content of `.meta.json` (our shards) or `.json` becomes metadata.

    Raises:
        SourceError: there are no tars, or only some samples have labels. While the reader lists images: the members of
            a sample are not adjacent.
    """
    found = find_tars(source, split)
    classes = () if options.unlabelled else _class_names(found.folder)
    notes = found.notes
    if classes is None:
        classes = _numbers(found.tars, source)
        notes += () if classes else (f"no sample of {source} has a label; building unlabelled",)

    def seen() -> Iterator[Seen]:
        for sample in _samples(found.tars):
            yield from _sample_seen(sample, is_labelled=bool(classes)) if isinstance(sample, _Sample) else [sample]
        yield from found.left_out

    return Listing(classes, seen, notes)


def _samples(tars: list[Path]) -> Iterator[_Sample | Lost | Other]:
    """The samples, and the members that belong to no sample."""
    for tar in tars:
        known: set[str] = set()
        current = _Sample("", tar, {})
        for member in tar_members(tar):
            name = _NAME.fullmatch(member.name)
            if name is None:
                path = f"{tar.name}/{member.name}"
                lost = Lost(path, "its name is not KEY.SUFFIX, as webdataset needs; rename it")
                yield lost if is_image_name(path) else Other(path, suffix_of(path))
                continue
            path, ext = f"{tar.name}/{name[1]}", name[2].lower()
            if ext in current.members and path == current.path:
                raise SourceError(f"{tar} has two members {name[1]}.{ext}; give each sample a key of its own")
            if path != current.path:
                if path in known:
                    raise SourceError(
                        f"{tar}: the members of sample {name[1]!r} are not side by side, or two samples have that key; "
                        "pack it again with the files sorted by name (tar --sort=name), and a key of its own for each"
                    )
                yield from [current] if current.members else []
                current = _Sample(path, tar, {})
                known.add(path)
            current.members[ext] = member
        yield from [current] if current.members else []


def _sample_seen(sample: _Sample, is_labelled: bool) -> Iterator[Seen]:
    """The image of a sample, and its members that are left out."""
    chosen = _chosen(sample)
    for ext, member in sample.members.items():
        path = f"{sample.path}.{ext}"
        if is_image_name(path) and (fault := _fault(sample, ext, chosen)):
            yield Lost(path, fault)
        elif ext == chosen:
            label = _label(sample) if is_labelled else None
            metadata = sample.members.get(_METADATA) or sample.members.get("json")
            yield Record.of(path, label, _source(sample, member), _source(sample, metadata) if metadata else None)
        elif not chosen or (ext not in _LABELS and ext != _METADATA):
            yield Other(path, suffix_of(path))


def _chosen(sample: _Sample) -> str | None:
    """The extension of the image to take from a sample; None if it has no image."""
    images = [ext for ext in sample.members if is_image_name(f"x.{ext}") and not sample.members[ext].fault]
    return next((ext for ext in (*_PREFERRED, *images) if ext in images and "." not in ext), None)


def _fault(sample: _Sample, ext: str, chosen: str | None) -> str | None:
    """Why an image of a sample cannot be taken."""
    if sample.members[ext].fault:
        return f"it is {sample.members[ext].fault} in {sample.tar.name}, not a file"
    if ext == chosen:
        return None
    if "." in ext:
        return f"webdataset reads it as member {ext!r} of sample {sample.path!r}: a key must have no dot; rename it"
    return f"it is another image of a sample whose image is .{chosen}"


def _source(sample: _Sample, member: Member) -> RangeSource:
    if member.fault:
        raise SourceError(f"{member.name} is {member.fault} in {sample.tar}, not a file; pack it again")
    return RangeSource(str(sample.tar), member.offset, member.num_bytes)


def _label(sample: _Sample) -> Label:
    """The label of a sample; None if it has none.

    Raises:
        SourceError: the label is garbled.
    """
    sources = [_source(sample, sample.members[ext]) for ext in _LABELS if ext in sample.members]
    value: Any = None
    try:
        if "cls" in sample.members:
            value = sources[0].read().decode("ascii").strip()
        elif sources:
            content = json.loads(sources[0].read())
            facts = content if isinstance(content, dict) else {}
            value = facts.get("label") if facts.get("labels") is None else facts["labels"]
        return None if value is None else numbers(value, sample.path)
    except (ValueError, OSError, RecursionError):
        raise SourceError(
            f"the label of {sample.path}.{_chosen(sample)} is garbled ({value!r:.80}): expected a number in .cls, or "
            "label or labels in .json"
        ) from None


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Class names from the manifest of our shards, or from a list; None if there is neither file."""
    manifest, names = folder / "manifest.json", folder / "classes.txt"
    if manifest.is_file():
        with reading(manifest, "a manifest"):
            classes = json.loads(manifest.read_bytes())["classes"]
            if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
                raise ValueError("its classes are no list of names")
            return tuple(classes)
    if names.is_file():
        with reading(names, "a list of class names"):
            return tuple(names.read_text("utf-8-sig").rstrip("\n").split("\n"))
    return None


def _numbers(tars: list[Path], source: Path) -> tuple[str, ...]:
    """The classes of samples whose labels are numbers; empty if no sample has a label."""
    labelled = unlabelled = ""
    largest = -1
    for item in _samples(tars):
        if not isinstance(item, _Sample) or not _chosen(item):
            continue
        label = _label(item)
        if label is None:
            unlabelled = unlabelled or f"{item.path}.{_chosen(item)}"
        else:
            labelled = labelled or f"{item.path}.{_chosen(item)}"
            largest = max(largest, *((label,) if isinstance(label, int) else label), -1)
        if labelled and unlabelled:
            raise SourceError(
                f"{unlabelled} has no label, but {labelled} has; label all, or pass --unlabelled to take no labels"
            )
    if labelled and largest < 0:
        raise SourceError(
            f"{labelled} has a label, but no sample of {source} has a class; list the classes in classes.txt"
        )
    return numbered(str(largest), source) if labelled else ()
