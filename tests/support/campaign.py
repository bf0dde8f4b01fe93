"""A campaign of faults: a stream of samples from a real S3 server, behind a proxy that injects faults all the time."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import telemetry
from pipeline.order import OrderConfig
from pipeline.shards.cache import CacheConfig
from pipeline.stream import SampleStream, StreamConfig, open_training_stream
from pipeline.stream.encoded import EncodedBatch
from support.fault_proxy import Kind, fault_proxy
from support.shards import jpegs, write_shards

GLOBAL_BATCH = 20
_SHARDS, _SHARD_SAMPLES = 40, 25
_BURST = 3  # of 503s, one after another
_RATES: dict[Kind, float] = {"503": 0.01, "reset": 0.02, "torn": 0.02, "short": 0.02, "corrupt": 0.01, "late": 0.003}
NAMES = {
    "503": f"503 Slow Down, bursts of {_BURST}",
    "reset": "connection reset before the answer",
    "torn": "connection reset in the middle of the body",
    "short": "body shorter than announced",
    "corrupt": "body with a wrong byte",
    "late": "latency spike",
    "no-bucket": "requests while the bucket was gone",
    "restart": "server killed and restarted",
}


@dataclass
class Chaos:
    """Chooses the fault of a request. No object is damaged twice in a row: that would be damage in the store."""

    seed: int = 0
    injected: "Counter[str]" = field(default_factory=Counter)
    bucket_gone_until_s: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._burst_left = 0
        self._damaged: set[str] = set()

    def choose(self, method: str, target: str) -> Kind | None:
        kind = self._kind(method, target)
        if kind:
            self.injected[kind] += 1
        return kind

    def _kind(self, method: str, target: str) -> Kind | None:
        if time.monotonic() < self.bucket_gone_until_s:
            return "no-bucket"
        if self._burst_left:
            self._burst_left -= 1
            return "503"
        draw, kinds = self._random.random(), iter(_RATES.items())
        kind: Kind | None = None
        for candidate, rate in kinds:
            if (draw := draw - rate) < 0:
                kind = candidate
                break
        if kind == "corrupt":
            return self._corrupt_once(method, target)
        self._burst_left = _BURST - 1 if kind == "503" else 0
        return None if method == "HEAD" and kind in ("torn", "short") else kind  # it has no body

    def _corrupt_once(self, method: str, target: str) -> Kind | None:
        path = target.split("?")[0]
        if method == "HEAD" or path in self._damaged or not path.endswith((".tar", ".npy")):
            self._damaged.discard(path)
            return None
        self._damaged = {path}
        return "corrupt"


@dataclass
class Report:
    """Injected faults, errors that the client noticed, and the result."""

    injected: "Counter[str]"
    noticed: dict[str, float]
    num_samples: int
    num_wrong: int
    longest_wait_s: float
    seconds: float

    def table(self) -> str:
        """For docs/reliability.md."""
        rows = [f"| {name} | {self.injected[kind]:,} |" for kind, name in NAMES.items()]
        noticed = ", ".join(f"{kind} {count:.0f}" for kind, count in sorted(self.noticed.items()) if count)
        return "\n".join(
            [
                f"| fault, over {self.num_samples:,} samples | injected |",
                "|---|---|",
                *rows,
                f"| **samples lost, repeated or with wrong bytes** | **{self.num_wrong}** |",
                f"| longest wait for a batch | {self.longest_wait_s:.1f} s |",
                f"| the whole campaign | {self.seconds:.0f} s |",
                "",
                f"Failed requests as the client counted them (`esvit_store_errors_total`): {noticed}.",
            ]
        )


def run_campaign(server: Any, folder: Path, num_samples: int, late_s: float, bucket_gone_s: float) -> Report:
    """Stream `num_samples` with faults; after a third the server restarts, after two thirds its bucket is removed."""
    images, url = jpegs(_SHARDS * _SHARD_SAMPLES), server.new_url()
    manifest = write_shards(url, *(images[i::_SHARDS] for i in range(_SHARDS)))
    config = StreamConfig(
        shards=url,
        order=OrderConfig(lanes=2, block_shards=4),
        cache=CacheConfig(folder=str(folder / "cache"), max_bytes=manifest.num_bytes // 2),  # every epoch fetches
    )
    num_steps, chaos = num_samples // GLOBAL_BATCH, Chaos()
    chaos_before = _noticed()
    expected = _expected_ids(config, num_steps)
    by_id = [image for i in range(_SHARDS) for image in images[i::_SHARDS]]
    digests = [hashlib.sha256(image).digest() for image in by_id]
    with _through_proxy(server, chaos, late_s) as stream_from:
        stream = stream_from(config)
        batches, wrong, longest_s, begin_s = stream.forever(), 0, 0.0, time.monotonic()
        for step in range(num_steps):
            if step == num_steps // 3:
                chaos.injected["restart"] += 1
                threading.Thread(target=server.restart).start()
            if step == 2 * num_steps // 3:
                chaos.bucket_gone_until_s = time.monotonic() + bucket_gone_s
            asked_s = time.monotonic()
            batch = next(batches)
            longest_s = max(longest_s, time.monotonic() - asked_s)
            wrong += _num_wrong(batch, expected[step], digests)
        seconds = time.monotonic() - begin_s
        batches.close()
    noticed = {kind: count - chaos_before.get(kind, 0.0) for kind, count in _noticed().items()}
    return Report(chaos.injected, noticed, num_steps * GLOBAL_BATCH, wrong, longest_s, seconds)


def _expected_ids(config: StreamConfig, num_steps: int) -> list[list[int]]:
    """The ids of each step, computed without I/O."""
    order = open_training_stream(config, 0, GLOBAL_BATCH).order
    return [order.batch(*divmod(step, order.num_steps)).tolist() for step in range(num_steps)]


def _num_wrong(batch: EncodedBatch, expected: list[int], digests: list[bytes]) -> int:
    pairs = zip(batch.ids.tolist(), expected, batch.images, strict=True)
    return sum(i != wanted or hashlib.sha256(image).digest() != digests[wanted] for i, wanted, image in pairs)


@contextmanager
def _through_proxy(server: Any, chaos: Chaos, late_s: float) -> Iterator[Any]:
    import pytest

    with fault_proxy(server.endpoint_url) as proxy, pytest.MonkeyPatch.context() as patch:
        proxy.late_s = late_s
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)

        def open_stream(config: StreamConfig) -> SampleStream:
            stream = open_training_stream(config, 0, GLOBAL_BATCH)
            proxy.choose = chaos.choose
            return stream

        yield open_stream


def _noticed() -> dict[str, float]:
    samples = [sample for metric in telemetry.STORE_ERRORS.collect() for sample in metric.samples]
    return {sample.labels["kind"]: sample.value for sample in samples if sample.name.endswith("_total")}
