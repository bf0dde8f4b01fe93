"""Undecodable images: each is replaced by the next image of its data set, until there are too many."""

import logging
import math
from collections.abc import Sequence

from pipeline import telemetry
from pipeline.errors import UserError
from pipeline.printable import printable
from pipeline.shards.data_sets import JoinedDataSets

_log = logging.getLogger(__name__)


class TooManyBadSamples(UserError):
    """More images than the budget allows could not be decoded."""


class BadSamples:
    """Counts the different bad images of each data set since the process began.

    A restarted run counts the same images again.
    """

    def __init__(self, data_sets: JoinedDataSets, max_fraction: float) -> None:
        self._data_sets, self._max_fraction = data_sets, max_fraction
        self._bad: Sequence[set[int]] = [set() for _ in data_sets.parts]

    def substitute(self, sample_id: int, reason: str) -> int:
        """Count and log a bad sample, and return the id of its replacement; `reason` is for the log.

        Raises:
            TooManyBadSamples: more than `max_fraction` of the data set, or all of its images, are bad.
        """
        telemetry.LOADER_BAD_SAMPLES.inc()
        part, name = self._data_sets.part_of(sample_id), self._data_sets.name_of(sample_id)
        bad, fraction = self._bad[part], self._max_fraction
        if sample_id not in bad:
            bad.add(sample_id)
            _log.warning("%s cannot be decoded and is replaced by the next image: %s", name, printable(reason))
        data_set = self._data_sets.parts[part]
        num_samples = data_set.manifest.num_samples
        if len(bad) > min(math.ceil(fraction * num_samples), num_samples - 1):
            raise TooManyBadSamples(
                f"{len(bad)} of the {num_samples} images of {data_set.store.url} could not be decoded, "
                f"the last was {name}; build the shards again or raise data.stream.max_bad_fraction from {fraction}"
            )
        return self._data_sets.next_of(sample_id)
