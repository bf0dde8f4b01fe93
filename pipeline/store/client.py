"""The fsspec file system of a URL, configured for a store: no retries, no cached listings, one per process."""

import logging
import os
import re
import weakref
from functools import partial
from typing import Any

import fsspec

from pipeline.printable import has_secret
from pipeline.store.faults import explain, one_line
from pipeline.store.hedge import Hedge
from pipeline.store.progress import answered, min_bytes_per_s

_CONNECT_TIMEOUT_S = 4
_READ_TIMEOUT_S = 30

_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 32,
        # The data set's own checksums cover every byte, and many S3-compatible servers lack the newer checksums.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
}

_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"}  # protocols whose addresses begin with a bucket

# The standard way to give credentials, by the beginning of the URL.
_CREDENTIALS = {
    ("s3://", "s3a://"): "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and ~/.aws/credentials",
    ("gs://", "gcs://"): "GOOGLE_APPLICATION_CREDENTIALS",
    ("az://", "abfs://", "abfss://"): "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_TOKEN or ..._ACCOUNT_KEY",
}

# A forked child must never close the connections that it inherits. It shares the event queue of its parent: closing a
# connection would remove it from that queue, and the parent would wait forever. So the child keeps the connections.
_clients: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_inherited: list[Any] = []
os.register_at_fork(after_in_child=lambda: _inherited.extend(_clients.values()))


class AddressError(ValueError):
    """A URL does not give a file system. The message completes "cannot use X as a store: ..."."""


def check_address(url: str) -> None:
    """Refuse mistyped addresses, which fsspec would take for a local path or another place.

    Raises:
        AddressError: the URL is empty, or contains a secret, or nothing follows the protocol, or a slash is missing.
    """
    if not url.strip():
        raise AddressError("the address is empty; for this folder write '.'")
    if "\0" in url:
        raise AddressError("the address contains a NUL byte")
    if has_secret(url):
        ways = [way for protocols, way in _CREDENTIALS.items() if url.startswith(protocols)]
        raise AddressError(
            "the address contains a password, a key or a signature, which would be in logs and configs; give it with "
            + (ways[0] if ways else "the options of fsspec (~/.config/fsspec, or FSSPEC_... in the environment)")
        )
    if one_slash := re.match(r"([a-z][a-z0-9+]+):(/(?!/)|$)", url):
        raise AddressError(f"the protocol needs two slashes; did you mean {one_slash[1]}://{url[one_slash.end() :]}?")
    protocol, separator, rest = url.partition("://")
    if separator and (not rest or (protocol in _BUCKETS and rest.startswith("/"))):
        raise AddressError(f"it names no {'bucket' if protocol in _BUCKETS else 'place'} after {protocol}://")


def _s3_options() -> dict[str, Any]:
    from pipeline.store.no_redirects import NoRedirects  # imports all of aiohttp, which a local folder does not need

    return {"config_kwargs": {**_S3_OPTIONS["config_kwargs"], "http_session_cls": NoRedirects}}


class Client:
    """File system and root path of a URL. Belongs to the process that made it: event loops do not survive a fork.

    Raises:
        AddressError: the address is wrong, its protocol is unknown, the package for it is not installed, or the
            connection fails.
        MinRateError: see `min_bytes_per_s`.
    """

    def __init__(self, url: str) -> None:
        check_address(url)
        min_bytes_per_s()
        protocol = fsspec.utils.get_protocol(url)
        self.is_local, self.is_s3 = protocol in ("file", "local"), protocol in ("s3", "s3a")
        options = _s3_options() if self.is_s3 else {}
        try:
            fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **options)
        except Exception as error:  # each file system of fsspec has its own exceptions
            fault = explain(error)
            raise AddressError(fault.cause if fault else one_line(error)) from None
        if self.is_s3:
            for library in ("botocore", "aiobotocore"):  # at DEBUG they log signatures and session tokens
                logging.getLogger(library).setLevel(logging.INFO)
            fs.retries = 1
            _clients[id(fs)] = fs
        self.fs: Any = fs
        self.root: str = root.rstrip("/")
        self.pid = os.getpid()
        self.hedge = Hedge()

    def call(self, method: str, *arguments: Any, num_bytes: int = 0, **options: Any) -> Any:
        """Call a method of the file system that moves `num_bytes`. A remote one must end within `progress.limit_s`."""
        if not self.fs.async_impl:
            return getattr(self.fs, method)(*arguments, **options)
        request = partial(getattr(self.fs, f"_{method}"), *arguments, **options)

        async def run() -> Any:
            return await answered(request(), num_bytes)

        return fsspec.asyn.sync(self.fs.loop, run)
