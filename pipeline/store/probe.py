"""Find out whether a store keeps what is there: some S3-compatible servers ignore the header `If-None-Match`.

With such a server `Store.put_new` replaces an object and says that it is new, so nothing keeps two writers apart.
"""

import contextlib
import uuid

from pipeline.store.atomic import PARTIAL
from pipeline.store.store import Store, StoreError


def overwrites(store: Store) -> bool:
    """Whether `put_new` replaces an object that exists. A local folder never does, and is not asked.

    Takes three requests: it writes a small object twice, under a name that `Store.list` leaves out, and removes it.
    Where the keys may not delete, the object stays.

    Raises:
        StoreError: the store cannot be written.
    """
    if store.local_path("") is not None:
        return False
    name = f".probe-{uuid.uuid4().hex}{PARTIAL}"
    store.put_new(name, b"1")
    try:
        return store.put_new(name, b"2")
    finally:
        with contextlib.suppress(StoreError):
            store.delete(name)
