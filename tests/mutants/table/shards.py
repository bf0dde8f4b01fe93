"""Shards on disk and in the store: fetched once, verified, pinned while needed, evicted in order."""

from mutants.mutant import changes

_CACHE = ("tests/unit/pipeline/shards/test_cache.py", "tests/unit/pipeline/shards/test_window.py")

MUTANTS = [
    *changes(
        "pipeline/shards/cache.py",
        _CACHE,
        [
            ("(tar.with_suffix(\".lock\"), \"ab\"), (tar, \"rb+\")", "(tar, \"rb+\"),"),
            ("(tar.with_suffix(\".lock\"), \"ab\"), (tar, \"rb+\")", "(tar.with_suffix(\".lock\"), \"ab\"),"),
            ("key=_last_use, reverse=True)", "key=_last_use)"),
            ("if total <= self.max_bytes:", "if total < self.max_bytes:"),
            ("                total -= num_bytes\n", "                pass\n"),
            ("self.is_full = total > self.max_bytes", "self.is_full = False"),
            ("            self.is_full = False\n", ""),
            ("        self._verify(name, writer.num_bytes, writer.hexdigest, sha256, num_bytes)\n", ""),
            ("self._verify(entry.tar_name, tar.stat().st_size, sha256_file(tar), entry.sha256, entry.num_bytes)", "pass"),
            ("if actual_sha256 != sha256:", "if False:"),
            ("if num_bytes is not None and actual_bytes != num_bytes:", "if False:"),
            ("if tar.stat().st_size != entry.num_bytes or not index.exists():", "if not index.exists():"),
            ("return shard if shard.pin() else None", "return shard"),
            ("            os.replace(partial, self._directory / name)\n", "            os.replace(partial, damaged)\n"),
            ("            damaged.unlink(missing_ok=True)\n", ""),
            ("                    os.replace(partial, damaged)\n                    raise", "                    raise"),
            ("except (CacheError, ReplacedObjectError) as error:", "except ZeroDivisionError as error:"),
            ("manifest.digest[:16]", '"shards"'),
            ("        self._close_evicted()\n", ""),
            ("            fcntl.flock(file, fcntl.LOCK_EX)\n        yield", "            pass\n        yield"),
            ("                self._unpin(shard)\n                return shard", "                return shard"),
            ("if not shard or (self._is_remote and not shard.pin()):", "if not shard:"),
            ("            self._pinned[i] = shard\n", ""),
            ("            self._unpin(shard)\n            self.is_full", "            self.is_full"),
            (
                "if len(self._open) > _MAX_OPEN_SHARDS:",
                "if False:",
                "memory only: 256 shards stay open, and a run of so many in a test is too long",
            ),
            (
                "                self._open.move_to_end(i)\n",
                "",
                "speed only: which of 256 open shards is closed first",
            ),
        ],
    ),
    *changes(
        "pipeline/shards/mapped.py",
        _CACHE,
        [
            ("        os.utime(self._file)\n", ""),
            ("        fcntl.flock(self._file, fcntl.LOCK_UN)", "        pass"),
            ("        fcntl.flock(self._file, fcntl.LOCK_SH)\n", ""),
            ("return not self.is_evicted", "return True"),
            ("if os.fstat(self._file).st_size < len(self._bytes):", "if False:"),
            ("self._bytes[offset : offset + size]", "self._bytes[offset : offset + size + 1]"),
            ("            os.close(self._file)", "            pass"),
            (
                "            self._map.madvise(mmap.MADV_WILLNEED, start, offset + size - start)  # reads ahead without waiting\n",
                "",
                "speed only: reads ahead",
            ),
        ],
    ),
    *changes(
        "pipeline/shards/remote.py",
        ("tests/unit/pipeline/shards/test_remote.py",),
        [
            ("gaps > _GAP_BYTES", "gaps > -1"),
            ("np.maximum.accumulate(stops[order])[:-1]", "stops[order][:-1]"),
            ("int(stops[run].max()) - first", "int(stops[run[-1]]) - first"),
            ("data[starts[i] - first : stops[i] - first]", "data[: stops[i] - first]"),
            ("except ShardIndexError as error:", "except ZeroDivisionError as error:"),
            ('np.argsort(starts, kind="stable")', "np.arange(len(starts))"),
        ],
    ),
    *changes(
        "pipeline/shards/window.py",
        _CACHE,
        [
            ("if len(behind) > self._num_behind:", "if behind:"),
            ("if len(behind) > self._num_behind:", "if False:"),
            ("self._shards[shard].result()", "pass"),
            ("                self._not_yet_needed.difference_update(step[1])\n", ""),
            ("if ahead and not self._has_room", "if not self._has_room"),
            ("self._cache.num_bytes(ahead) > self._look_ahead_bytes", "False"),
            ("return not self._is_over_budget(new)", "return True"),
            ("                self._cache.release(shard)\n\n    def _has_room", "                pass\n\n    def _has_room"),
            ("            if not self._num_uses[shard]:\n", "            if True:\n"),
            ("        self._num_uses.subtract(step[1])\n", ""),
            ("            self._pool.shutdown(wait=True, cancel_futures=True)\n", "            self._pool.shutdown(wait=False)\n"),
            ("and is_head and not self._has_warned", "and is_head"),
            ("and is_head and not self._has_warned", "and not self._has_warned"),
        ],
    ),
]
