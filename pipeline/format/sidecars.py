"""What other readers want beside a shard: DALI and Energon an index of it, wids and Energon a description of them all.

Our own readers use none of these. All follow from the members of the tars, so they need no hash in the manifest.
- DALI: `<shard>.idx`, text: `v1.2 N`, then a line per sample, of each member `ext offset size name`. Without it DALI
  reads a tar that was cut between two members as a shorter one, without an error.
- Energon (Megatron): `<shard>.tar.idx`, u64 little-endian: where each sample begins, and where the last one ends; and
  three small files in `.nv-meta/`. Its `index.sqlite`, for joins by key, is left to `energon prepare`.
- wids, random access for webdataset: `wids.json`.
"""

import itertools
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.format.index import Index, ends
from pipeline.format.manifest import Manifest, ShardEntry

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
"""Of the images in our shards, by content."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """Of its first byte of content."""
    num_bytes: int


def dali_row(*members: Member) -> bytes:
    """The line of one sample in a DALI index."""
    parts = (f"{name.partition('.')[2]} {offset} {num_bytes} {name}" for name, offset, num_bytes in members)
    return f"{' '.join(parts)}\n".encode()


def dali_index(rows: bytes, num_samples: int) -> bytes:
    """The DALI index of a shard, from the rows of its samples."""
    return f"v1.2 {num_samples}\n".encode() + rows


def energon_index(index: Index) -> bytes:
    """The Energon index of a shard: a sample begins where the one before it ends, after its image."""
    return bytes(np.concatenate([[0], ends(index)]).astype("<u8").tobytes())


def shard_sidecars(entry: ShardEntry, tar: str | Path, index: Index) -> dict[str, bytes]:
    """The files that belong beside a finished shard, by name, from its tar and its own index."""
    with tarfile.open(tar, "r:") as file:
        members = [Member(member.name, member.offset_data, member.size) for member in file]
    samples = itertools.groupby(members, key=lambda member: member.name.partition(".")[0])
    rows = b"".join(dali_row(*sample) for _, sample in samples)
    return {dali_name(entry): dali_index(rows, len(index)), energon_name(entry): energon_index(index)}


def dali_name(entry: ShardEntry) -> str:
    """Where the DALI index of a shard lies."""
    return f"{entry.name}.idx"


def energon_name(entry: ShardEntry) -> str:
    """Where the Energon index of a shard lies."""
    return f"{entry.tar_name}.idx"


def data_set_sidecars(manifest: Manifest) -> dict[str, bytes]:
    """The files that describe the whole data set, by name."""
    names = [entry.tar_name for entry in manifest.shards]
    wids = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{manifest.dataset}-{manifest.split}",
        "shardlist": [
            {"url": entry.tar_name, "nsamples": entry.num_samples, "filesize": entry.num_bytes}
            for entry in manifest.shards
        ],
    }
    info = {"shard_counts": {entry.tar_name: entry.num_samples for entry in manifest.shards}}
    # Energon's own tools ask for these three, and take one that is empty, but not one that is absent.
    split = {"split_parts": {"train": [], "val": [], "test": [], manifest.split: names}, "exclude": []}
    # JSON is YAML. A field lists its alternatives: images are of three kinds, labels one number or a list.
    kind, fields = "ImageSample", {"image": ",".join(IMAGE_EXTENSIONS)}
    if manifest.classes:
        kind, fields = "ImageClassificationSample", {**fields, "label": "cls,json[labels]"}
    dataset = {"sample_type": {"__module__": "megatron.energon", "__class__": kind}, "field_map": fields}
    return {
        "wids.json": _json(wids),
        ".nv-meta/.info.json": _json(info),
        ".nv-meta/split.yaml": _json(split),
        ".nv-meta/dataset.yaml": _json(dataset),
    }


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
