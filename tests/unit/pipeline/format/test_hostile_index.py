"""An index that points backwards, or at places that no tar has, is refused when it is opened."""

from typing import Any

import numpy as np
import pytest

from pipeline.format.checksum import digest_bytes
from pipeline.format.index import INDEX_DTYPE, ShardIndexError, index_from_bytes, index_to_bytes
from pipeline.format.shard_table import ShardEntry

SOUND = [(1024, 100), (2048, 600)]  # offset and size of each image: they end at 1536 and at 3072


def opened(*samples: tuple[int, int]) -> Any:
    rows = np.zeros(len(samples), INDEX_DTYPE)
    rows["offset"], rows["size"] = zip(*samples, strict=True)
    content = index_to_bytes(rows)
    entry = ShardEntry(
        name="a", num_bytes=10_240, num_samples=len(rows), digest="0" * 64, index_digest=digest_bytes(content)
    )
    return index_from_bytes(content, entry, "a.samples.npy")


def test_a_sound_index_is_opened() -> None:
    assert opened(*SOUND)["offset"].tolist() == [1024, 2048]
    assert len(opened((512, 2**28))) == 1


@pytest.mark.parametrize(
    "last",
    [(2**64 - 1, 1), (2**63, 1), (2**45, 1), (2048 + 2**29, 1), (2048, 2**32 - 1), (1536, 1), (512, 1), (0, 1)],
    ids=str,
)
def test_an_index_that_points_elsewhere_is_refused(last: tuple[int, int]) -> None:
    with pytest.raises(ShardIndexError, match=r"^index a\.samples\.npy points at places where no samples can be"):
        opened(SOUND[0], last)


def test_the_first_image_has_a_header_before_it() -> None:
    with pytest.raises(ShardIndexError, match="points at places where no samples can be"):
        opened((0, 100))
