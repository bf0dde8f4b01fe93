"""Files that other readers need beside our shards: DALI, Energon and wids.

Our own readers use none of these files. All follow from the members of the tars, so the manifest has no hash of them.
- DALI: `<shard>.idx`, text: `v1.2 N`, then one line per sample with `ext offset size name` of each member. Without this
  file, DALI reads a tar that is truncated between two members as a shorter tar, without an error.
- Energon (Megatron): `<shard>.tar.idx`, u64 little-endian: the first byte of each sample and the end of the last
  sample; and three small files in `.nv-meta/`. Its `index.sqlite`, for joins by key, is left to `energon prepare`.
- wids, random access for webdataset: `wids.json`.
"""

import itertools
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.format.index import Index, ends
from pipeline.format.manifest import Manifest
from pipeline.format.shard_table import ShardEntry

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
"""The extensions of images in our shards; they follow from the content."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """First byte of its content in the tar."""
    num_bytes: int


def dali_row(*members: Member) -> bytes:
    """The line of one sample in a DALI index."""
    parts = (f"{name.partition('.')[2]} {offset} {num_bytes} {name}" for name, offset, num_bytes in members)
    return f"{' '.join(parts)}\n".encode()


def dali_index(rows: bytes, num_samples: int) -> bytes:
    """The DALI index of a shard, from the rows of its samples."""
    return f"v1.2 {num_samples}\n".encode() + rows


def energon_index(index: Index) -> bytes:
    """The Energon index of a shard. A sample ends after its image, and the next sample begins there."""
    return bytes(np.concatenate([[0], ends(index)]).astype("<u8").tobytes())


def shard_sidecars(entry: ShardEntry, tar: str | Path, index: Index) -> dict[str, bytes]:
    """The content of the files beside a finished shard, by name; made from its tar and its index."""
    with tarfile.open(tar, "r:") as file:
        members = [Member(member.name, member.offset_data, member.size) for member in file]
    samples = itertools.groupby(members, key=lambda member: member.name.partition(".")[0])
    rows = b"".join(dali_row(*sample) for _, sample in samples)
    return {dali_name(entry): dali_index(rows, len(index)), energon_name(entry): energon_index(index)}


def dali_name(entry: ShardEntry) -> str:
    """The file name of the DALI index of a shard."""
    return f"{entry.name}.idx"


def energon_name(entry: ShardEntry) -> str:
    """The file name of the Energon index of a shard."""
    return f"{entry.tar_name}.idx"


def data_set_sidecars(manifest: Manifest) -> dict[str, bytes]:
    """The content of the files that describe the whole data set, by name."""
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
    # Energon's tools need all three splits; a split may be empty but not missing.
    split = {"split_parts": {"train": [], "val": [], "test": [], manifest.split: names}, "exclude": []}
    # JSON is valid YAML. Each field lists its alternatives: three image formats; one label or a list of labels.
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
