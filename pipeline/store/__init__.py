"""Objects in folders and object stores over fsspec: parallel parts, create-if-absent, retries, hedged requests."""

from pipeline.store.store import MissingObjectError, ReplacedObjectError, Store, StoreError

__all__ = ["MissingObjectError", "ReplacedObjectError", "Store", "StoreError"]
