"""Limits in time for the requests to a remote store: progress, or an end.

A server that sends one byte per second keeps a connection alive for ever. So each window of `_WINDOW_S` of a download
must bring at least `min_bytes_per_s()`. Any other request has a limit as a whole: `_ANSWER_S`, and more for the bytes
that it sends. A request over its limit is broken off, and `pipeline.store.retry` decides whether it is tried again.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

MIN_RATE_VARIABLE = "ESVIT_STORE_MIN_BYTES_PER_S"
"""Environment variable: the least bytes per second of one request. Processes of a run and of a build inherit it."""

_DEFAULT_BYTES_PER_S = 1000.0
_WINDOW_S = 10.0
_ANSWER_S = 30.0  # from the request to the end of a short answer, or to the head of a long one
_CHUNK_BYTES = 2**20

R = TypeVar("R")


class MinRateError(ValueError):
    """`ESVIT_STORE_MIN_BYTES_PER_S` is not a number above 0."""


class TooSlowError(OSError):
    """An answer arrives more slowly than the limit allows."""


def min_bytes_per_s() -> float:
    """The least bytes per second of one request.

    Raises:
        MinRateError: the environment variable is not a number above 0.
    """
    text = os.environ.get(MIN_RATE_VARIABLE, "")
    try:
        rate = float(text or _DEFAULT_BYTES_PER_S)
    except ValueError:
        rate = math.nan
    if not (rate > 0 and math.isfinite(rate)):
        raise MinRateError(f"{MIN_RATE_VARIABLE} is {text!r}; set it to bytes per second, a number above 0")
    return rate


def limit_s(num_bytes: int) -> float:
    """The limit of a whole request that moves this many bytes, seconds."""
    return _ANSWER_S + num_bytes / min_bytes_per_s()


async def answered(request: Awaitable[R], num_bytes: int = 0) -> R:
    """The result of a request that moves this many bytes: a short answer, an upload, or the head of a long answer.

    Raises:
        TooSlowError: it took longer than `limit_s`.
    """
    seconds = limit_s(num_bytes)
    try:
        async with asyncio.timeout(seconds) as timer:
            return await request
    except TimeoutError:
        if not timer.expired():  # a limit of the client's own
            raise
        raise TooSlowError(f"the answer was not complete after {seconds:.0f} s") from None


async def read_all(read: Callable[[int], Awaitable[bytes]]) -> bytes:
    """The bytes of a body, read with `read(num_bytes)` up to its empty answer.

    Raises:
        TooSlowError: fewer bytes than the least rate came in a window.
    """
    least, chunks = min_bytes_per_s() * _WINDOW_S, list[bytes]()
    while True:
        num_before = len(chunks)
        try:
            async with asyncio.timeout(_WINDOW_S) as window:
                while chunk := await read(_CHUNK_BYTES):
                    chunks.append(chunk)
            return b"".join(chunks)
        except TimeoutError:
            if not window.expired():
                raise
        num_bytes = sum(map(len, chunks[num_before:]))
        if num_bytes < least:
            raise TooSlowError(f"only {num_bytes} bytes came in {_WINDOW_S:.0f} s")
