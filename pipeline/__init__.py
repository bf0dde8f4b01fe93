"""The data pipeline: from finished shards, wherever they lie, to augmented views on the device.

This package is the public Python API: the names in `__all__`, which docs/library.md shows at work. Other names may
change. A name is imported when it is first used, so `import pipeline` is fast and needs no torch.

The way of a sample
-------------------

1. **A data set** is a folder or a place in an object store: a manifest, tar shards, and an index per shard (`format`).
   The manifest has the digest of every file, and is the identity of the data set. The index has a checksum of every
   image. A sample has a number, its id: its place in the shards, one after the other.
2. **The order** (`order`) is a function: (seed, epoch, step) to the ids of the global batch. Each rank takes its slice
   of that batch. So the samples of a step are the same with any number of ranks, and a position in a run is one
   integer. Several data sets with weights are one order (`order.mixture`).
3. **Shards are fetched before they are needed** (`shards.window`), since the order is known. `store` fetches them in
   parallel parts, with retries and hedged requests. `shards.cache` keeps them on the local disk, which the
   ranks of a node share. It evicts the shard that is needed last. Where the disk is too small,
   `shards.remote` reads single images by range.
4. **The stream** (`stream`) reads and verifies the encoded images of each step a few steps ahead, and yields an
   `EncodedBatch`. Its
   state is the position and the identity of the order: data set, seed, batch size and mixing. A stream of another
   order refuses the state.
5. **The plan** (`augment.plan`) draws every random choice of every view: windows, flips, colours, blurs. Each number is
   a function of (seed, pass over the data, id, view). So views depend neither on ranks, nor threads, nor restarts.
6. **The executor** (`augment.cpu`, `dali`, `reference`) turns (encoded images, plan) into stacked views. An image that
   cannot be decoded is logged, counted, and replaced by the next image of its data set; too many stop the run.
7. **The loader** (`loader`) does 4 to 6 in a background thread, some batches ahead of the training step. It moves the
   views to the device, normalises them, applies the user's transform if there is one, and yields a `ViewBatch`.

One loop over a loader or a stream is one epoch; the next loop is the next epoch. A loop may be left anywhere: the next
loop continues with the next batch, and no batch is lost or repeated. `state_dict` counts the batches yielded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.augment import RECIPES, CenterCropConfig, ExecutorError, MultiCropConfig
    from pipeline.augment.colour import ColourJitter
    from pipeline.augment.plan import ViewGroup
    from pipeline.config import ConfigError
    from pipeline.errors import UserError
    from pipeline.format.index import ShardIndexError
    from pipeline.format.manifest import ManifestError
    from pipeline.format.tar import TarError
    from pipeline.library.in_one_call import view_loader, views
    from pipeline.library.map_style import ImageError, Sample, Shards
    from pipeline.library.webdataset_stage import WebdatasetSource
    from pipeline.loader import DataConfig, TransformError, ViewBatch, ViewLoader
    from pipeline.loops import IterationError
    from pipeline.order import OrderConfig, OrderError
    from pipeline.shards.cache import CacheConfig
    from pipeline.shards.interface import CacheError
    from pipeline.shards.samples import DamagedShardError
    from pipeline.store import MissingObjectError, ReplacedObjectError, StoreError
    from pipeline.stream import SampleStream, Source, StreamConfig, open_sequential_stream, open_training_stream
    from pipeline.stream.bad_samples import TooManyBadSamples
    from pipeline.stream.encoded import EncodedBatch

__all__ = [
    "RECIPES",
    "CacheConfig",
    "CacheError",
    "CenterCropConfig",
    "ColourJitter",
    "ConfigError",
    "DamagedShardError",
    "DataConfig",
    "EncodedBatch",
    "ExecutorError",
    "ImageError",
    "IterationError",
    "ManifestError",
    "MissingObjectError",
    "MultiCropConfig",
    "OrderConfig",
    "OrderError",
    "ReplacedObjectError",
    "Sample",
    "SampleStream",
    "ShardIndexError",
    "Shards",
    "Source",
    "StoreError",
    "StreamConfig",
    "TarError",
    "TooManyBadSamples",
    "TransformError",
    "UserError",
    "ViewBatch",
    "ViewGroup",
    "ViewLoader",
    "WebdatasetSource",
    "open_sequential_stream",
    "open_training_stream",
    "view_loader",
    "views",
]

_HOMES = {
    "augment": ("RECIPES", "CenterCropConfig", "ExecutorError", "MultiCropConfig"),
    "augment.colour": ("ColourJitter",),
    "augment.plan": ("ViewGroup",),
    "stream.bad_samples": ("TooManyBadSamples",),
    "config": ("ConfigError",),
    "stream.encoded": ("EncodedBatch",),
    "errors": ("UserError",),
    "format.index": ("ShardIndexError",),
    "format.manifest": ("ManifestError",),
    "format.tar": ("TarError",),
    "library.in_one_call": ("view_loader", "views"),
    "loader": ("DataConfig", "TransformError", "ViewBatch", "ViewLoader"),
    "loops": ("IterationError",),
    "library.map_style": ("ImageError", "Sample", "Shards"),
    "order": ("OrderConfig", "OrderError"),
    "shards.cache": ("CacheConfig",),
    "shards.interface": ("CacheError",),
    "shards.samples": ("DamagedShardError",),
    "store": ("MissingObjectError", "ReplacedObjectError", "StoreError"),
    "stream": ("SampleStream", "Source", "StreamConfig", "open_sequential_stream", "open_training_stream"),
    "library.webdataset_stage": ("WebdatasetSource",),
}
"""The public names of each module, as imported above."""
_MODULES = {name: f"pipeline.{module}" for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # hidden from type checkers, which would accept every mistyped name

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
        try:
            value = getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from pipeline.console.extras import missing_package

            missing = missing_package(error.name or "")
            if missing is None:
                raise
            raise ModuleNotFoundError(f"pipeline.{name}: {missing}", name=error.name) from None
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
