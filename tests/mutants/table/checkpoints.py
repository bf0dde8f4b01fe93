"""Checkpoints, whole or absent, safe to open; and what is measured on them."""

from mutants.mutant import changes

_CHECKPOINTS = ("tests/unit/esvit/checkpoints/test_files.py", "tests/unit/esvit/checkpoints/test_protocol.py")

MUTANTS = [
    *changes(
        "esvit/checkpoints/files.py",
        _CHECKPOINTS,
        [
            ("weights_only=True)\n    except", "weights_only=False)\n    except"),
            ("    store.delete(_note_of(name))\n    store.delete(name)", "    store.delete(name)\n    store.delete(_note_of(name))"),
            ("            store.delete(_note_of(name))  # an older note must never stand beside newer data\n", ""),
            ("    store.put(_note_of(name), note.model_dump_json(indent=1).encode())\n", ""),
            ("if len(data) != note.num_bytes or sha256_bytes(data) != note.sha256:", "if len(data) != note.num_bytes:"),
            ("if len(data) != note.num_bytes or", "if", "equivalent: other bytes have another hash"),
            ("is_name(name) and _note_of(name) in found", "is_name(name)"),
            ("for name in reversed(found):", "for name in found:"),
            ("            say(f\"{error}; falling back", "            str(f\"{error}; falling back"),
            ("    if found:\n        raise CheckpointError(f\"all", "    if False:\n        raise CheckpointError(f\"all"),
            ('folder.glob(".*.part") if folder else ()', "()"),
            ("    except ValidationError:\n        raise CheckpointError(f\"checkpoint {store.url}/{name} cannot be read: {note} is damaged\") from None", "    except ZeroDivisionError:\n        raise"),
            ("            store.put(name, folder / name)\n", "            store.put_new(name, folder / name)\n"),
        ],
    ),
    *changes(
        "esvit/checkpoints/keeping.py",
        _CHECKPOINTS,
        [
            ("        self.wait()\n        self._writing", "        self._writing"),
            ("            self._writing.result()\n", ""),
            ("self._writer.submit(self._write, _on_host(state)", "self._writer.submit(self._write, state"),
            ("            files.delete(self.store, step)\n", ""),
            ("            del self._notes[step]\n", "", "equivalent: what is deleted twice is deleted"),
            ("kept = {0, *steps[", "kept = {*steps["),
            ("steps[-self._config.keep_last :]", "steps[: self._config.keep_last]"),
            (", *filter(self._is_milestone, steps)}", "}"),
            ("if note.healthy and note.loss is not None]", "if note.loss is not None]"),
            ("kept.add(min(ranked,", "kept.add(max(ranked,"),
            ("if note.step <= step:", "if True:"),
            ("        files.remove_partials(self.store)\n", ""),
            (" or step == num_steps or", " or"),
            (" or self._is_milestone(step)", ""),
            ("        self._writer.shutdown(wait=True)", "        self._writer.shutdown(wait=False)"),
            ("note = files.write(self.store, state, loss, healthy)\n        self._notes[note.step] = note\n", "note = files.write(self.store, state, loss, healthy)\n"),
            (".to(\"cpu\", copy=True)", ".to(\"cpu\")"),
        ],
    ),
    *changes(
        "esvit/checkpoints/source.py",
        _CHECKPOINTS,
        [
            ("    if files.is_name(name):", "    if False:"),
            ("    if found is None:\n", "    if False:\n"),
            ("    except ValidationError as error:", "    except ZeroDivisionError as error:"),
        ],
    ),
    *changes(
        "esvit/checkpoints/official.py",
        ("tests/unit/esvit/checkpoints/test_official.py", "tests/unit/esvit/checkpoints/test_protocol.py"),
        [
            ('map_location="cpu", weights_only=True)', 'map_location="cpu", weights_only=False)'),
            ("int(match[1]) + 1}.downsample", "int(match[1])}.downsample"),
            ('name = name.removeprefix("module.")', "pass"),
            ("    if problems:\n", "    if False:\n"),
            ("{n: p for n, p in trained.items() if n not in exempt} | {n: trained[n] for n in trained if n in exempt}", "trained"),
            ("center.flatten() for name, center", "center for name, center"),
            ('if any(state[moment].shape != parameter.shape for moment in _MOMENTS):', "if False:"),
            ('frozen = ("weight_g",) if model.head.norm_last_layer else ()', "frozen = ()"),
        ],
    ),
    *changes(
        "esvit/eval/features.py",
        ("tests/unit/esvit/eval/test_features.py",),
        [
            ("F.normalize(pooled.float(), dim=1)", "pooled.float()"),
            ("    backbone.eval()\n", ""),
            ("[mine][batch.mask]).to", "[mine]).to"),
            (".pooled[counted]", ".pooled"),
            ("order.batch(batch.epoch, batch.step)[mine][batch.mask]", "batch.ids[batch.mask]"),
            ("here.sum(features), here.sum(labels)", "features, labels", "tested where ranks are: OneOfTwo stands for one of two"),
            ("batch_size * here.size)", "batch_size)"),
        ],
    ),
    *changes(
        "esvit/eval/knn.py",
        ("tests/unit/esvit/eval/test_knn.py",),
        [
            ("if k <= available", "if k < available"),
            ("or [available]", "or [1]"),
            ("(similarity / TEMPERATURE).exp()", "similarity"),
            ("votes[:, :k].sum(dim=1)", "votes.sum(dim=1)"),
            ("votes[:, :k].sum(dim=1)", "votes[:, :k].amax(dim=1)"),
            ("TEMPERATURE = 0.07", "TEMPERATURE = 0.7"),
            ("count / len(test.labels)", "count / len(train.labels)"),
            ("if train.classes != test.classes:", "if len(train.classes) != len(test.classes):"),
            ("key=lambda item: item[1])", "key=lambda item: item[0])"),
            ("start : start + _CHUNK], test.labels[start : start + _CHUNK]", "start : start + _CHUNK], test.labels[:_CHUNK]"),
        ],
    ),
]
