"""Find images with equal bytes in a source, before the first shard is written.

This reads all images once more. The result is stored at the destination (`_build/duplicates.json`): it is computed
once per build, and every process and every resumed run uses the same one.
"""

import json
from typing import NamedTuple

from pipeline.console.progress import progress
from pipeline.format.checksum import digest_bytes
from pipeline.store import Store
from tools.shard_builder.build.journal import publish
from tools.shard_builder.build.plan import Plan, ShardPlan
from tools.shard_builder.build.runners import Engine, run_tasks

_NAME = "_build/duplicates.json"


class _Digests(NamedTuple):
    shard_index: int
    digests: list[str | None]
    """BLAKE3 of each image of the shard; None if the image cannot be read."""


def find_duplicates(store: Store, plan: Plan, engine: Engine) -> dict[str, str]:
    """Map the key of every duplicate to the path of the image that is kept: the first by path.

    Labels are ignored: of two equal images in two classes only one is kept.
    """
    if not store.exists(_NAME):
        content = json.dumps(_compare(plan, engine), indent=0, sort_keys=True).encode()
        publish(store, _NAME, content, digest_bytes(content))
    duplicates: dict[str, str] = json.loads(store.read(_NAME))
    return duplicates


def _compare(plan: Plan, engine: Engine) -> dict[str, str]:
    found: list[tuple[str, str, str]] = []
    with progress("looking for duplicates", sum(shard.num_bytes for shard in plan.shards)) as advance:
        for shard_index, digests in run_tasks(engine, _content_digests, plan.shards):
            shard = plan.shards[shard_index]
            pairs = zip(shard.records, digests, strict=True)
            found += [(record.path, record.key, digest) for record, digest in pairs if digest]
            advance(shard.num_bytes)
    first: dict[str, str] = {}
    return {key: first[digest] for path, key, digest in sorted(found) if first.setdefault(digest, path) != path}


def _content_digests(shard: ShardPlan) -> _Digests:
    digests: list[str | None] = []
    for record in shard.records:
        try:
            digests.append(digest_bytes(record.source.read()))
        except OSError:
            digests.append(None)  # becomes a reject when its shard is written
    return _Digests(shard.index, digests)
