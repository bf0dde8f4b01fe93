"""Small objects of a data set that carry a checksum: read again if the content does not have it."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline import telemetry, waiting
from pipeline.errors import UserError
from pipeline.store import Store

_PAUSES_S = (0.1, 1.0, 3.0)  # a proxy that answers with an error page does so for a while

_log = logging.getLogger(__name__)
T = TypeVar("T")


def read_verified(store: Store, name: str, parse: Callable[[bytes], T], damage: type[UserError]) -> T:
    """`parse` of the content of an object. After `damage`, it is read again: bits may have changed on the way.

    Raises:
        StoreError: the object cannot be read.
        UserError: `damage` after every try, or another error of `parse` at once.
    """
    return verified(lambda: parse(store.read(name)), f"{store.url}/{name}", damage)


def verified(read: Callable[[], T], what: str, damage: type[UserError]) -> T:
    """`read()`; after `damage` once more, a few times."""
    for pause_s in _PAUSES_S:
        try:
            return read()
        except damage as error:
            telemetry.STORE_ERRORS.labels(kind="damaged").inc()
            _log.warning("%s (reading it again)", error)
            with waiting.phase(f"pause before {what} is read again"):
                time.sleep(pause_s)
    return read()
