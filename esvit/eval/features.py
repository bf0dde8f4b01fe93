"""Frozen features of a whole data set, through the same shards, plan and executors as training."""

from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from esvit.models import Backbone
from pipeline.augment import CenterCrop, CenterCropConfig
from pipeline.loader import DataConfig, open_loader
from pipeline.order import SequentialOrder
from pipeline.store import Store, read_manifest
from pipeline.stream import SampleStream


@dataclass(frozen=True)
class LabelledFeatures:
    """N samples in the order of the manifest."""

    features: Tensor  # float32 [N, D], of length 1
    labels: Tensor  # int64 [N]
    classes: tuple[str, ...]


@torch.inference_mode()
def extract(
    backbone: Backbone, data: DataConfig, crop: CenterCropConfig, batch_size: int, device: torch.device
) -> LabelledFeatures:
    """The pooled feature of the centre crop of every sample.

    Raises:
        ManifestError, StoreError: the shards cannot be read.
    """
    store = Store(data.stream.shards)
    manifest = read_manifest(store)
    order = SequentialOrder(manifest.num_samples, batch_size)
    stream = SampleStream(manifest, store, order, data.stream)
    backbone.eval()
    features = torch.empty(manifest.num_samples, backbone.width, device=device)
    labels = torch.empty(manifest.num_samples, dtype=torch.long, device=device)
    with open_loader(stream, CenterCrop(crop), data, device) as loader:
        for batch in islice(loader, order.num_steps):
            # The last batch is filled up with repeats; writing them to the same place again is harmless.
            first = batch.step * batch_size
            num_rows = min(batch_size, manifest.num_samples - first)
            pooled = backbone(batch.views[0][0]).pooled
            features[first : first + num_rows] = F.normalize(pooled[:num_rows].float(), dim=1)
            labels[first : first + num_rows] = batch.labels[:num_rows]
    return LabelledFeatures(features, labels, manifest.classes)
