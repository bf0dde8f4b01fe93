"""Every metric of the project, named once, and the endpoint that exposes them.

Conventions (Prometheus naming guide): prefix `esvit_`, base units in the name, counters end in `_total`, no rates:
images per second are `rate(esvit_train_samples_total[1m])`. Labels are few and bounded: never shard, key, URL or step.
The rank is not a label here. Each rank has its own endpoint, and its target file carries `rank` (see `announce`). So no
series can collide, and a dead rank shows as `up == 0`.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)

from pipeline.errors import UserError

disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS_WAIT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SECONDS_STEP = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)
_SECONDS_READ = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

# Storage: one shard or range at a time.
STORE_READ_SECONDS = Histogram(
    "esvit_store_read_seconds", "Time of one read from the object store", buckets=_SECONDS_READ
)
STORE_READ_BYTES = Counter("esvit_store_read_bytes", "Bytes read from the object store")
STORE_ERRORS = Counter("esvit_store_errors", "Failed requests to the object store, before any retry", ["kind"])
STORE_HEDGES = Counter("esvit_store_hedges", "Second requests, sent because the first was slow")
CACHE_LOOKUPS = Counter("esvit_cache_lookups", "Shard look-ups in the local cache", ["result"])
CACHE_BYTES = Gauge("esvit_cache_bytes", "Bytes of shards in the local cache", ["data_set"])

# Loader: encoded samples in, stacked views out.
LOADER_SAMPLES = Counter("esvit_loader_samples", "Images handed to the training step")
LOADER_BYTES = Counter("esvit_loader_encoded_bytes", "Encoded bytes of the images handed to the training step")
LOADER_BAD_SAMPLES = Counter("esvit_loader_bad_samples", "Images that could not be decoded and were replaced")
LOADER_WAIT_SECONDS = Histogram(
    "esvit_loader_wait_seconds", "Time the training step waited for its batch", buckets=_SECONDS_WAIT
)
LOADER_QUEUE_BATCHES = Gauge("esvit_loader_queue_batches", "Finished batches that wait for the training step")
LOADER_AUGMENT_SECONDS = Histogram(
    "esvit_loader_augment_seconds",
    "Time to turn one batch of encoded images into views",
    buckets=_SECONDS_STEP,
)

# Training: one optimisation step.
TRAIN_SAMPLES = Counter("esvit_train_samples", "Images this rank has trained on")
TRAIN_STEPS = Counter("esvit_train_steps", "Optimisation steps of this process")
TRAIN_STEP_SECONDS = Histogram(
    "esvit_train_step_seconds", "Time of one step, including the wait for its batch", buckets=_SECONDS_STEP
)
TRAIN_POSITION = Gauge("esvit_train_epoch", "Position of the run, in epochs")
TRAIN_LOSS = Gauge("esvit_train_loss", "Loss of the newest logged step", ["term"])
TRAIN_TEACHER_ENTROPY = Gauge(
    "esvit_train_teacher_entropy_ratio",
    "Entropy of the mean teacher assignment over ln K: 0 is one prototype, 1 is uniform; both are collapse",
)
TRAIN_FEATURE_STD = Gauge(
    "esvit_train_feature_std", "Standard deviation of the teacher's normalised features over images; 0 is collapse"
)
TRAIN_CENTER_DRIFT = Gauge(
    "esvit_train_center_drift", "RMS change of the centres between two logged steps, in teacher temperatures"
)
TRAIN_COLLAPSED = Gauge("esvit_train_collapsed", "1 while signs of collapse last, else 0")
TRAIN_LEARNING_RATE = Gauge("esvit_train_learning_rate", "Learning rate of the newest logged step")
# Shard builder. Samples and bytes count only in shards that have been committed.
BUILD_PLANNED_SHARDS = Gauge("esvit_build_planned_shards", "Shards that this run has to write")
BUILD_SHARDS = Counter("esvit_build_shards", "Shards written")
BUILD_SAMPLES = Counter("esvit_build_samples", "Images written into shards")
BUILD_BYTES = Counter("esvit_build_bytes", "Bytes of the shards written")
BUILD_REJECTS = Counter("esvit_build_rejects", "Images left out of the shards written")
BUILD_FAILURES = Counter("esvit_build_failures", "Failed attempts to write a shard")
BUILD_PHASE_SECONDS = Counter("esvit_build_phase_seconds", "Time in each phase, summed over workers", ["phase"])
RUN_INFO = Info("esvit_run", "What this process runs")


class MetricsPortError(UserError):
    """The metrics endpoint cannot listen on its port."""


def start_exporter(port: int, address: str = "127.0.0.1") -> int:
    """Serve `/metrics` from a daemon thread until the process ends. Port 0 is any free port. Returns the port in use.

    Raises:
        MetricsPortError: the port is taken or not valid, or this machine does not have the address.
    """
    return int(_serve(port, address).server_port)


@contextmanager
def exporter(port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """As `start_exporter`, but ends with the block, so that the next run in this process can use the port."""
    server = _serve(port, address)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def _serve(port: int, address: str) -> Any:
    try:
        return start_http_server(port, addr=address)[0]
    except (OSError, OverflowError) as error:  # the latter for a port above 65535
        reason = getattr(error, "strerror", None) or error
        raise MetricsPortError(
            f"metrics endpoint cannot listen on {address}:{port} ({reason}); "
            "choose another address or port; port 0 is any free port"
        ) from None


def announce(directory: str | Path, rank: int, address: str, port: int, run: str) -> Path:
    """Write the Prometheus file_sd target of this rank, atomically, as `rank-N.json` in `directory`.

    If the endpoint listens on all interfaces ("0.0.0.0"), the target is the name of this host.
    """
    host = socket.gethostname() if address in ("0.0.0.0", "::") else address
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    target = [{"targets": [f"{host}:{port}"], "labels": {"rank": str(rank), "run": run}}]
    final = folder / f"rank-{rank}.json"
    partial = final.with_suffix(".json.part")
    partial.write_text(json.dumps(target))
    os.replace(partial, final)
    return final
