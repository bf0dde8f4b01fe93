"""Run tasks on a Ray cluster: an existing one, or one that is started on this machine for the build.

Every node needs this package, the source at the same path, and its own credentials (a role, its environment). No
credentials are sent.
"""

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pipeline.console.extras import missing_package
from tools.shard_builder.build.runners import RunnerError, WorkerDiedError, relayed

_CONNECT_TIMEOUT_S = 5

T = TypeVar("T")
R = TypeVar("R")


def _knock(address: str) -> None:
    """Fail after a few seconds if no cluster answers; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise RunnerError(f"no Ray cluster answers at {address}, expected HOST:PORT of its head ({error})") from None


class RayEngine:
    """The CPUs of a cluster, one per task.

    Raises:
        MissingPackageError: Ray is not installed.
        RunnerError: no cluster answers.
    """

    def __init__(self, num_workers: int | None, address: str | None = None) -> None:
        """Without `address` a cluster of `num_workers` CPUs starts here; None: all CPUs."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise missing_package("ray") or error from None
        if address:
            _knock(address)
        local: dict[str, Any] = {} if address else {"num_cpus": num_workers, "include_dashboard": False}
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
        except (ConnectionError, ValueError) as error:
            raise RunnerError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())}") from None
        self._ray = ray
        self.num_slots = num_workers or int(ray.cluster_resources()["CPU"])

    def submit(self, function: Callable[[T], R], task: T) -> "Future[R]":
        remote = self._ray.remote(function).options(num_cpus=1, max_retries=0)
        future: Future[R] = remote.remote(task).future()
        return relayed(future, self._explain)

    def close(self) -> None:
        self._ray.shutdown()

    def _explain(self, error: BaseException) -> BaseException:
        if isinstance(error, self._ray.exceptions.RayTaskError):
            cause: BaseException = error.cause
            return cause  # the exception of the function; the wrapper's message would be a traceback
        if isinstance(error, self._ray.exceptions.RayError):
            return WorkerDiedError(f"a Ray worker was lost: {str(error).strip().partition(chr(10))[0]}")
        return error
