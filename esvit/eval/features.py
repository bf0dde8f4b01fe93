"""Frozen features of a whole data set, through the same shards, plan and executors as training."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from esvit.distributed import World
from esvit.models import Backbone
from pipeline.augment import CenterCrop, CenterCropConfig
from pipeline.console.progress import counted
from pipeline.errors import UserError
from pipeline.loader import DataConfig, ViewBatch, open_loader
from pipeline.order import rank_slice
from pipeline.stream import open_sequential_stream


class TooFewClasses(UserError):
    """The data set has no labels, or only one class."""


@dataclass(frozen=True)
class LabelledFeatures:
    """N samples in the order of the manifest."""

    features: Tensor  # float32 [N, D], of length 1
    labels: Tensor  # int64 [N]
    classes: tuple[str, ...]


@torch.inference_mode()
def extract(
    backbone: Backbone, data: DataConfig, crop: CenterCropConfig, batch_size: int, here: World
) -> LabelledFeatures:
    """The pooled feature of the centre crop of every sample, on every rank; a collective call.

    Each rank computes `batch_size` samples per batch, at most its share of the data set. Each sample is computed once:
    the last batch is padded with repeats, and its mask leaves the repeats out.

    Raises:
        ManifestError, StoreError: the shards cannot be read.
        TooFewClasses: there are fewer than two classes.
    """
    stream = open_sequential_stream(data.stream, batch_size * here.size, here.rank, here.size)
    (data_set,), order = stream.data_sets, stream.order
    manifest = data_set.manifest
    check_classes(manifest.classes, data_set.store.url)
    backbone.eval()
    features = torch.zeros(manifest.num_samples, backbone.width, device=here.device)
    labels = torch.zeros(manifest.num_samples, dtype=torch.long, device=here.device)
    mine = rank_slice(order.global_batch, here.rank, here.size)
    with open_loader(stream, CenterCrop(crop), data, here.device) as loader:
        batches: Iterator[ViewBatch] = iter(loader)
        if here.is_main:
            batches = counted(batches, "computing features", order.num_steps, "batches")
        for batch in batches:
            # Not `batch.ids`: an undecodable sample keeps its row, filled with its neighbour's views.
            rows = torch.from_numpy(order.batch(batch.epoch, batch.step)[mine][batch.mask]).to(here.device)
            is_counted = torch.from_numpy(batch.mask).to(here.device)
            pooled = backbone(batch.views[0][0]).pooled[is_counted]
            features[rows] = F.normalize(pooled.float(), dim=1)
            labels[rows] = batch.labels[is_counted]
    # The rows of the other ranks are zero here.
    return LabelledFeatures(here.sum(features), here.sum(labels), manifest.classes)


def check_classes(classes: tuple[str, ...], name: str) -> None:
    """Refuse a data set without labels, or with one class: every answer would be right.

    Raises:
        TooFewClasses: there are fewer than two classes.
    """
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no labels"
        raise TooFewClasses(f"{name} has {found}; evaluation needs a data set of two classes or more")
