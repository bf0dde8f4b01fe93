"""Small shards with exactly the images of a test, damaged images included."""

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from pipeline.format.checksum import digest_bytes
from pipeline.format.index import INDEX_DTYPE, index_to_bytes
from pipeline.format.manifest import MANIFEST_NAME, Manifest, Spread
from pipeline.format.shard_table import TABLE_NAME, ShardEntry, ShardTable
from pipeline.format.tar import Label, ShardWriter
from pipeline.shards.data_sets import read_manifest
from pipeline.shards.interface import OpenShard
from pipeline.store import Store

HEIGHT, WIDTH = 48, 64


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Random content, smooth with a little grain, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-4, 5, smooth.shape)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of the image file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpegs(count: int, first_seed: int = 0) -> list[bytes]:
    """Different JPEGs of `HEIGHT` x `WIDTH`."""
    return [encode(picture(first_seed + i)) for i in range(count)]


def image(shard: OpenShard, i: int) -> bytes:
    """The file of image `i` of a shard."""
    row = shard.rows.view(INDEX_DTYPE)[i]
    content = bytearray(int(row["size"]))
    shard.read_into([int(row["offset"])], [memoryview(content)])
    return bytes(content)


def write_shards(
    url: str | Path,
    *shards: Sequence[bytes],
    sizes: Mapping[int, tuple[int, int]] = MappingProxyType({}),
    orientations: Mapping[int, int] = MappingProxyType({}),
    labels: Mapping[int, Label] = MappingProxyType({}),
    metadata: Mapping[int, bytes] = MappingProxyType({}),
) -> Manifest:
    """Write shards of these files at `url`. A sample's label is its id, except for ids in `labels`.

    The recorded (height, width) is HEIGHT x WIDTH, except for ids in `sizes`; the recorded EXIF orientation is 1.
    """
    store = Store(url)
    entries: list[ShardEntry] = []
    i = 0
    for number, files in enumerate(shards):
        name = f"tiny-{number:06d}"
        with tempfile.TemporaryDirectory() as folder:
            with ShardWriter(Path(folder) / "tar") as writer:
                for file in files:
                    size, orientation = sizes.get(i, (HEIGHT, WIDTH)), orientations.get(i, 1)
                    label, text = labels.get(i, i), metadata.get(i, b"")
                    writer.add(f"k{i:06d}", "jpg", file, label, *size, orientation, text)
                    i += 1
            index = index_to_bytes(writer.index)
            store.put(f"{name}.tar", Path(folder) / "tar")
            store.put(f"{name}.samples.npy", index)
        entries.append(
            ShardEntry(
                name=name,
                num_bytes=writer.num_bytes,
                num_samples=len(files),
                digest=writer.digest,
                index_digest=digest_bytes(index),
            )
        )
    manifest = Manifest(
        dataset="tiny",
        split="train",
        classes=tuple(f"class-{number}" for number in range(i)),
        shards=ShardTable.of(entries),
        num_samples=i,
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_rejects=0,
        image_height=Spread(min=HEIGHT, median=HEIGHT, max=HEIGHT),
        image_width=Spread(min=WIDTH, median=WIDTH, max=WIDTH),
        image_bytes=Spread(min=1, median=1, max=1),
        plan_digest="0" * 64,
    )
    store.put(TABLE_NAME, manifest.shards.to_bytes())
    store.put(MANIFEST_NAME, manifest.to_bytes())
    return manifest


def forge(store: Store, number: int, **changes: Any) -> Manifest:
    """Sign the data set again, with a shard whose entry says something else."""
    entries = list(read_manifest(store).shards)
    entries[number] = entries[number].replace(**changes)
    return sign(store, entries)


def sign(store: Store, entries: Sequence[ShardEntry]) -> Manifest:
    """Write the manifest of a data set again, with other shards."""
    table = ShardTable.of(entries)
    totals = {"num_samples": int(table.num_samples.sum()), "num_bytes": int(table.num_bytes.sum())}
    manifest: Manifest = read_manifest(store).replace(shards=table, **totals)
    store.put(TABLE_NAME, table.to_bytes())
    store.put(MANIFEST_NAME, manifest.to_bytes())
    return manifest
