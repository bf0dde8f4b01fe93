"""The bytes on disk: tar, index, manifest, sidecars."""

from mutants.mutant import changes

_FORMAT = ("tests/unit/pipeline/format",)

MUTANTS = [
    *changes(
        "pipeline/format/tar.py",
        _FORMAT,
        [
            ("self._hashing.write(bytes(-len(content) % tarfile.BLOCKSIZE))", "pass"),
            ("        self._hashing.write(_END_MARK)\n", ""),
            ("self._hashing.write(bytes(-self._hashing.num_bytes % tarfile.RECORDSIZE))", "pass"),
            ("(members[-1].offset, len(image), index_label(label)", "(members[0].offset, len(image), index_label(label)"),
            ("index_label(label), height, width, orientation", "index_label(label), width, height, orientation"),
            ("- sum(b\"0\" * 11))", ")"),
            ("return label if isinstance(label, int) else MULTI_LABEL", "return label if isinstance(label, int) else 0"),
            ("if not tail.startswith(_END_MARK) or", "if"),
            ("or tail.strip(b\"\\0\") or", "or"),
            (" or len(tail) > 2 * tarfile.RECORDSIZE:", ":"),
            ("if len(image) != image_member.size or (is_labelled and label is None):", "if is_labelled and label is None:"),
            ("if len(image) != image_member.size or (is_labelled and label is None):", "if len(image) != image_member.size:"),
            ('is_labelled = b"", b"", suffix in ("cls", "json")', 'is_labelled = b"", b"", True'),
            ("return int(content) if content.isdigit() else None", "return int(content)"),
            ("all(type(label) is int for label in labels)", "True"),
            ("        assert KEY_PATTERN.fullmatch(key), key\n", ""),
            ("            members.append(self._write_member(f\"{key}.{_METADATA}\", metadata))\n", "            pass\n"),
        ],
    ),
    *changes(
        "pipeline/format/index.py",
        _FORMAT,
        [
            ("if sha256_bytes(content) != entry.index_sha256:", "if False:"),
            ("    if not content.startswith(_MAGIC):", "    if False:"),
            (" or len(content) != num_bytes:", ":"),
            ("content[len(_MAGIC) + 2 : start].strip() != header.encode() or", ""),
            ('"r", start, (entry.num_samples,)', '"r", 0, (entry.num_samples,)'),
        ],
    ),
    *changes(
        "pipeline/format/manifest.py",
        _FORMAT,
        [
            ("            if total != getattr(self, field):", "            if False:"),
            ("if len({shard.name for shard in self.shards}) != len(self.shards):", "if False:"),
            ("sort_keys=True, indent=1", "indent=1"),
            ("if version != SCHEMA_VERSION:", "if False:"),
            ("        except ValueError:\n            raise ManifestError", "        except ZeroDivisionError:\n            raise ManifestError"),
        ],
    ),
    *changes(
        "pipeline/format/sidecars.py",
        _FORMAT,
        [
            ("blocks = -(-index[\"size\"]", "blocks = (index[\"size\"]"),
            ("[[0], ends]", "[[512], ends]"),
            ('f"v1.2 {num_samples}\\n"', 'f"v1.2 {num_samples + 1}\\n"'),
            ("name.partition('.')[2]", "name.rpartition('.')[2]"),
        ],
    ),
    *changes(
        "pipeline/format/checksum.py",
        _FORMAT,
        [
            ("        self.num_bytes += len(data)\n", ""),
            ("        self._hash.update(data)\n", ""),
        ],
    ),
]
