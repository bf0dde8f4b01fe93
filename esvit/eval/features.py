"""Frozen features of a whole data set, through the same shards, plan and executors as training."""

from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from esvit.distributed import World
from esvit.models import Backbone
from pipeline.augment import CenterCrop, CenterCropConfig
from pipeline.errors import UserError
from pipeline.loader import DataConfig, open_loader
from pipeline.order import SequentialOrder, rank_slice
from pipeline.shards.data_sets import open_data_set
from pipeline.stream import SampleStream


class TooFewClasses(UserError):
    """The data set has no labels, or one class only: nothing can be recognised."""


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

    Each rank computes `batch_size` samples of every batch, and each sample is computed by one of them: where the
    last batch is filled up, its mask leaves the repeats out.

    Raises:
        ManifestError, StoreError: the shards cannot be read.
        TooFewClasses: there are fewer than two classes.
    """
    (source,) = data.stream.sources
    data_set = open_data_set(source.url)
    manifest = data_set.manifest
    check_classes(manifest.classes, source.url)
    order = SequentialOrder(manifest.num_samples, batch_size * here.size)
    stream = SampleStream([data_set], order, data.stream, here.rank, here.size)
    backbone.eval()
    features = torch.zeros(manifest.num_samples, backbone.width, device=here.device)
    labels = torch.zeros(manifest.num_samples, dtype=torch.long, device=here.device)
    mine = rank_slice(order.global_batch, here.rank, here.size)
    with open_loader(stream, CenterCrop(crop), data, here.device) as loader:
        for batch in islice(loader, order.num_steps):
            # Not `batch.ids`: an undecodable sample keeps its row, with what its neighbour has.
            rows = torch.from_numpy(order.batch(batch.epoch, batch.step)[mine][batch.mask]).to(here.device)
            counted = torch.from_numpy(batch.mask).to(here.device)
            pooled = backbone(batch.views[0][0]).pooled[counted]
            features[rows] = F.normalize(pooled.float(), dim=1)
            labels[rows] = batch.labels[counted]
    # The rows of the other ranks are zero here.
    return LabelledFeatures(here.sum(features), here.sum(labels), manifest.classes)


def check_classes(classes: tuple[str, ...], name: str) -> None:
    """Refuse what cannot be evaluated with labels: with one class, every answer would be right.

    Raises:
        TooFewClasses: there are fewer than two.
    """
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no labels"
        raise TooFewClasses(f"{name} has {found}; evaluation needs a data set of two classes or more")
