"""Features of a whole data set, on one rank and on two: each sample exactly once."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esvit.distributed import World
from esvit.eval.features import LabelledFeatures, TooFewClasses, extract
from esvit.models import Backbone
from esvit.models.backbone import Features
from pipeline.augment import CenterCropConfig
from pipeline.loader import DataConfig
from pipeline.stream import StreamConfig
from support.shards import jpegs, write_shards

NUM_SAMPLES, BATCH = 13, 4


class Pixels(Backbone):
    """Its feature is a coarse picture; it remembers how many images it saw."""

    width, num_seen = 3 * 4 * 4, 0

    def forward(self, images: Tensor) -> Features:
        assert not self.training
        self.num_seen += len(images)
        coarse = F.adaptive_avg_pool2d(images, 4)
        return Features(coarse.flatten(1), coarse.flatten(2).transpose(1, 2))

    @property
    def blocks(self) -> list[nn.Module]:
        return []


ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def features_of(shards: str, batch_size: int, here: World = ALONE) -> tuple[LabelledFeatures, int]:
    backbone = Pixels()
    data = DataConfig(stream=StreamConfig(shards=shards, num_threads=1, max_bad_fraction=0.1), num_threads=1)
    found = extract(backbone, data, CenterCropConfig(size=16, resize=18), batch_size, here)
    return found, backbone.num_seen


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    """13 images; the size of no batch below divides that."""
    folder = tmp_path_factory.mktemp("features")
    images = jpegs(NUM_SAMPLES)
    write_shards(folder, images[:6], images[6:])
    return str(folder)


def test_every_sample_has_its_own_row(data_set: str) -> None:
    whole, _ = features_of(data_set, NUM_SAMPLES)
    assert whole.labels.tolist() == list(range(NUM_SAMPLES))
    assert len(torch.unique(whole.features, dim=0)) == NUM_SAMPLES
    parts, num_seen = features_of(data_set, BATCH)
    assert num_seen == 16
    torch.testing.assert_close(parts.features, whole.features)
    assert parts.labels.tolist() == whole.labels.tolist()


class OneOfTwo(World):
    """A rank before the sum over both, which test_two_ranks.py has."""

    def sum(self, values: Tensor) -> Tensor:
        summed.append(values.clone())
        return summed[-1]


summed: list[Tensor] = []


def test_two_ranks_divide_the_samples(data_set: str) -> None:
    whole, _ = features_of(data_set, NUM_SAMPLES)
    ranks = [features_of(data_set, BATCH, OneOfTwo(rank, rank, 2, torch.device("cpu"))) for rank in range(2)]
    assert all(any(values is total for total in summed) for f, _ in ranks for values in (f.features, f.labels))
    assert [num_seen for _, num_seen in ranks] == [8, 8]  # of 16 places, three of which are filled up
    rows = [set(found.features.norm(dim=1).nonzero().ravel().tolist()) for found, _ in ranks]
    assert rows == [{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12}]
    (first, _), (second, _) = ranks
    torch.testing.assert_close(first.features + second.features, whole.features)
    assert (first.labels + second.labels).tolist() == list(range(NUM_SAMPLES))


def test_an_undecodable_sample_has_the_row_of_its_neighbour(tmp_path: Path) -> None:
    images = jpegs(NUM_SAMPLES)
    write_shards(tmp_path, [*images[:5], b"broken", *images[6:]])
    found, _ = features_of(str(tmp_path), BATCH)
    assert found.features[5].tolist() == found.features[6].tolist() and found.labels[5] == 6
    torch.testing.assert_close(found.features.norm(dim=1), torch.ones(NUM_SAMPLES))


def test_without_labels_nothing_is_computed(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, jpegs(2))
    (tmp_path / "manifest.json").write_bytes(manifest.replace(classes=()).to_bytes())
    with pytest.raises(TooFewClasses, match=f"{tmp_path} has no labels"):
        features_of(str(tmp_path), BATCH)
