"""The shards of coming steps: fetched in the order of their first use, pinned in the cache until their last use.

    released | behind: being read | head | ahead: as many steps as `look_ahead_bytes` of shards not yet needed allow
             |------------- pinned: no rank of this node evicts these ------------|

The order of samples is known, so only shards that are needed are fetched, and no pinned shard is evicted too early.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.shards.interface import OpenShard, ShardSource

_SCAN_STEPS = 4  # steps to look ahead per step yielded: the window grows fast, and the first step comes soon
_MAX_STEPS_AHEAD = 10_000  # a limit where all shards together stay below the limit in bytes
_MAX_SHARDS_AHEAD = 128  # each is an open file

_log = logging.getLogger(__name__)

Step = tuple[int, Sequence[int]]
"""A position, and the shards of its samples."""


class ShardWindow:
    """Fetches shards with `num_threads`. `num_behind`: steps already yielded whose shards stay pinned."""

    def __init__(self, cache: ShardSource, look_ahead_bytes: int, num_threads: int, num_behind: int) -> None:
        self._cache, self._look_ahead_bytes, self._num_behind = cache, look_ahead_bytes, num_behind
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="fetch-shards")
        self._shards: dict[int, Future[OpenShard]] = {}
        self._num_uses: Counter[int] = Counter()  # steps of the window that need a shard
        self._not_yet_needed: set[int] = set()
        self._has_warned = False

    def positions(self, steps: Iterator[Step]) -> Iterator[int]:
        """Yield the position of each of the endless `steps` once its shards are in the cache.

        The first exception of a download is raised where the step that needs the shard would have been yielded. Closing
        the iterator waits for the downloads that have begun, drops the others, and releases the shards.
        """
        ahead, behind = deque[Step](), deque[Step]()
        following = next(steps)
        try:
            while True:
                for _ in range(_SCAN_STEPS):
                    if ahead and not self._has_room(following, len(ahead)):
                        break
                    self._begin(following, is_head=not ahead)
                    ahead.append(following)
                    following = next(steps)
                step = ahead.popleft()
                for shard in self._not_yet_needed.intersection(step[1]):  # earlier steps waited for the others
                    self._shards[shard].result()
                self._not_yet_needed.difference_update(step[1])
                yield step[0]
                behind.append(step)
                if len(behind) > self._num_behind:
                    self._release(behind.popleft())
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for shard in self._shards:
                self._cache.release(shard)

    def _has_room(self, step: Step, num_steps: int) -> bool:
        new = {shard for shard in step[1] if shard not in self._shards}
        if not new:
            return num_steps < _MAX_STEPS_AHEAD and len(self._shards) < self._cache.num_shards
        ahead = self._not_yet_needed | new
        if len(ahead) > _MAX_SHARDS_AHEAD or self._cache.num_bytes(ahead) > self._look_ahead_bytes:
            return False
        return not self._is_over_budget(new)

    def _is_over_budget(self, new: set[int]) -> bool:
        return self._cache.is_full or self._cache.num_bytes(self._shards.keys() | new) > self._cache.max_bytes

    def _begin(self, step: Step, is_head: bool) -> None:
        self._num_uses.update(step[1])
        new = [shard for shard in step[1] if shard not in self._shards]
        if new and is_head and not self._has_warned and self._is_over_budget(set(new)):
            self._has_warned = True
            _log.warning(
                "the shards in use have %d bytes and leave no room to fetch ahead: data.stream.cache.max_bytes is %d; "
                "training will wait for downloads: raise max_bytes, or lower data.stream.shard_look_ahead_bytes",
                self._cache.num_bytes(self._shards.keys() | set(new)),
                self._cache.max_bytes,
            )
        for shard in new:
            self._not_yet_needed.add(shard)
            self._shards[shard] = self._pool.submit(self._cache.pin, shard)

    def _release(self, step: Step) -> None:
        self._num_uses.subtract(step[1])
        for shard in step[1]:
            if not self._num_uses[shard]:
                del self._num_uses[shard], self._shards[shard]
                self._cache.release(shard)
