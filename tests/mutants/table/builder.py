"""The shard builder: what is planned, committed, verified and copied."""

from mutants.mutant import changes

_BUILD = "tests/unit/shard_builder/build"
_PLAN = (f"{_BUILD}/test_plan.py",)
_COMMIT = (f"{_BUILD}/test_run.py", f"{_BUILD}/test_writer.py", f"{_BUILD}/test_commit_protocol.py")
_VERIFY = ("tests/unit/shard_builder/commands/test_verify.py", "tests/integration/test_damaged_shards.py")
_COPY = ("tests/unit/shard_builder/commands/test_compare_and_copy.py",)

MUTANTS = [
    *changes(
        "tools/shard_builder/build/plan.py",
        _PLAN,
        [
            ("if len({record.key for record in ordered}) < len(ordered):", "if False:"),
            ("    if not ordered:\n", "    if False:\n"),
            ("num_shards = -(-ends[-1] // shard_bytes)", "num_shards = ends[-1] // shard_bytes"),
            ("(item[1] - 1) * num_shards // ends[-1]", "item[1] // shard_bytes"),
            ("_path_order if shuffle_seed is None else _shuffled_order(shuffle_seed)", "_shuffled_order(shuffle_seed or 0)"),
            ('f"{seed}/{record.key}"', "record.key"),
            ("num_blocks = 1 - (-record", "num_blocks = 0 - (-record"),
            ("        num_blocks += 2\n", "        num_blocks += 1\n"),
            ("        num_blocks += 1 - (-record.metadata.num_bytes // tarfile.BLOCKSIZE)\n", "        pass\n"),
            ("[FORMAT_VERSION, *head]", "head"),
            ("(record.key, record.path, record.label, record.num_bytes)", "(record.key, record.path, record.label)"),
            ("(record.key, record.path, record.label, record.num_bytes)", "(record.key, record.path, record.num_bytes)"),
            ('if images.changes_images else {})', "if False else {})"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/journal.py",
        _COMMIT,
        [
            ("    if other.plan_digest != claim.plan_digest:", "    if False:"),
            ("    if read_claim(store).plan_digest != plan_digest:", "    if False:"),
            ("        if sha256_file(existing.name) != sha256:", "        if False:"),
            ("    if store.put_new(name, source):\n        return\n", "    if store.put_new(name, source):\n        return\n    return\n"),
            ("marker.plan_digest == claim.plan_digest and present", "present"),
            (" and present.issuperset(marker.object_names)", ""),
            ("dali_name(self.entry), energon_name(self.entry))", "dali_name(self.entry))"),
            ("    if store.put_new(_CLAIM_NAME,", "    if store.put(_CLAIM_NAME,"),
            ("    except ValidationError:\n        return None", "    except ZeroDivisionError:\n        return None"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/writer.py",
        _COMMIT,
        [
            ("            check_claim(task.store, task.plan_digest)\n", ""),
            ("            mark_done(task.store, result)\n", ""),
            ("if len(writer.index) else None", "if True else None"),
            ("            if error.errno not in _TRANSIENT:\n", "            if True:\n"),
            ("            if error.errno not in _TRANSIENT:\n", "            if False:\n"),
            ("reason, by_choice = str(error), True", "reason, by_choice = str(error), False"),
            ("reason, by_choice = str(error), False", "reason, by_choice = str(error), True"),
            ("    publish(store, entry.index_name, index, entry.index_sha256)\n", ""),
            ("size = image.height, image.width", "size = image.width, image.height"),
            ("        publish(store, sidecar, content, sha256_bytes(content))\n", "        pass\n"),
            ("if kept := task.duplicates.get(record.key):", "if kept := None:"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/finish.py",
        _COMMIT,
        [
            ("    check_claim(store, claim.plan_digest)\n    publish", "    publish"),
            ("    if len(bad) > max_rejects:", "    if len(bad) >= max_rejects + 2:"),
            ("if not reject.by_choice]", "]"),
            ("if missing := sorted(set(range(claim.num_shards)) - done.keys()):", "if missing := []:"),
            ("    if not entries:\n", "    if False:\n"),
            ("num_rejects=len(rejects)", "num_rejects=len(bad)"),
            ("        publish(store, name, content, sha256_bytes(content))\n", "        pass\n"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/run.py",
        _COMMIT,
        [
            ("        if manifest.plan_digest != plan.digest:", "        if False:"),
            ("if shard.index not in done], options)", "], options)", "speed only: a shard that is there is written again and compared"),
            ("wanted = plan.shards[options.shard_range or slice(None)]", "wanted = plan.shards"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/runners.py",
        (f"{_BUILD}/test_runners.py",),
        [
            ("if attempt < MAX_ATTEMPTS:", "if attempt <= MAX_ATTEMPTS:"),
            ("                    queue.append((task, attempt + 1))\n", "                    pass\n"),
            ("queue.append((task, attempt + 1))", "queue.appendleft((task, attempt + 1))"),
            ("                    queue.clear()\n", "                    pass\n"),
            ("num_done, num_failed_in_a_row = num_done + 1, 0", "num_done = num_done + 1"),
            ("    if num_done < len(tasks):", "    if False:"),
            ("            self._pool = self._start()\n            future", "            future"),
            ("len(running) < engine.num_slots", "len(running) < 1"),
        ],
    ),
    *changes(
        "tools/shard_builder/build/indexes.py",
        (f"{_BUILD}/test_run.py", f"{_BUILD}/test_writer.py"),
        [
            ("middle = (len(values) - 1) // 2", "middle = len(values) // 2"),
            ('image_width=_spread(indexes, "width")', 'image_width=_spread(indexes, "height")'),
        ],
    ),
    *changes(
        "tools/shard_builder/build/duplicates.py",
        (f"{_BUILD}/test_run.py", f"{_BUILD}/test_images.py"),
        [
            ("in sorted(found) if", "in found if"),
            ("            digests.append(None)", "            pass"),
            ("    if not store.exists(_NAME):", "    if True:", "speed only: all images are read once more, and the outcome compared"),
        ],
    ),
    *changes(
        "tools/shard_builder/commands/verify.py",
        _VERIFY,
        [
            ("    if image.ext != sample.ext:", "    if False:"),
            ("(size := store.size(entry.tar_name)) != entry.num_bytes:", "(size := store.size(entry.tar_name)) < 0:"),
            ("            if sha256_file(tar) != entry.sha256:", "            if False:"),
            ('(row["offset"], row["size"], row["label"]) !=', '(row["offset"], row["size"], index_label(sample.label)) !='),
            ("all(0 <= label < task.num_classes", "all(label < task.num_classes"),
            ("all(0 <= label < task.num_classes", "all(0 <= label <= task.num_classes"),
            ("        elif task.decode and (fault", "        elif False and (fault"),
            ("        if row is None or sample is None:", "        if sample is None:"),
            ("        if task.store.read(name) != content:", "        if False:"),
            ("(image.height, image.width, image.orientation) !=", "(image.height, image.width, row[\"orientation\"]) !="),
            ("not isinstance(error, MissingObjectError):\n            raise", "False:\n            raise"),
            ("            if memory and not problems:", "            if memory:"),
            ("for decoded in {True, self._decode})", "for decoded in {True, False})"),
            ('                "sha256": entry.sha256,\n', ""),
            ('                "url": self._url,\n', ""),
            ("        self._file.flush()\n", "        pass\n", "a killed run would lose at most its last lines; the file is closed otherwise"),
        ],
    ),
    *changes(
        "tools/shard_builder/commands/copy.py",
        _COPY,
        [
            ("    take(dest, claim)\n", ""),
            ("            if sha256_file(tar) != entry.sha256:", "            if False:"),
            ("    if copied.digest != manifest.digest:", "    if False:"),
            ("if index not in done]", "]"),
            ("    mark_done(dest, result)\n", ""),
            ("                publish(dest, name, content, sha256_bytes(content))\n", "                pass\n"),
            ("max_rejects=manifest.num_rejects", "max_rejects=0"),
            ("            publish(dest, entry.index_name, index_to_bytes(index), entry.index_sha256)\n", ""),
        ],
    ),
]
