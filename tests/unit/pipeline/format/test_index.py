"""The index: read from disk, and only if it is the one of the manifest."""

import ast
from pathlib import Path

import numpy as np
import pytest

from pipeline.format.checksum import digest_bytes
from pipeline.format.index import INDEX_DTYPE, ShardIndexError, index_from_bytes, index_to_bytes, load_index
from pipeline.format.shard_table import ShardEntry

INDEX = np.array([(1536, 11, 12, 700, 4, 30, 40, 1), (4096, 2**64 - 1, 0, 100, 0, 20, 10, 6)], dtype=INDEX_DTYPE)


def save(path: Path, data: bytes, num_samples: int = 2) -> ShardEntry:
    path.write_bytes(data)
    return ShardEntry(name="t", num_bytes=1, num_samples=num_samples, digest="a" * 64, index_digest=digest_bytes(data))


def test_round_trip(tmp_path: Path) -> None:
    entry = save(tmp_path / "i.npy", index_to_bytes(INDEX))
    loaded = load_index(tmp_path / "i.npy", entry)
    np.testing.assert_array_equal(loaded, INDEX)


def test_no_header_is_parsed_with_ast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 fails at that, now and then, where several threads do it at once: and fetch threads do."""
    entry = save(tmp_path / "i.npy", index_to_bytes(INDEX))

    def refuse(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "literal_eval", refuse)
    np.testing.assert_array_equal(load_index(tmp_path / "i.npy", entry), INDEX)
    np.testing.assert_array_equal(index_from_bytes(index_to_bytes(INDEX), entry, "i"), INDEX)


def test_bytes_are_reproducible() -> None:
    assert index_to_bytes(INDEX) == index_to_bytes(INDEX.copy())


def test_refuses_other_content(tmp_path: Path) -> None:
    path = tmp_path / "i.npy"
    entry = save(path, index_to_bytes(INDEX))
    path.write_bytes(index_to_bytes(INDEX[:1]))
    with pytest.raises(ShardIndexError, match="digest"):
        load_index(path, entry)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"i\.npy is not a NumPy array file"),
        (b"garbage", r"i\.npy is not a NumPy array file"),
        (index_to_bytes(INDEX)[:-5], r"i\.npy does not hold the 2 rows"),
        (index_to_bytes(INDEX).replace(b"'height'", b"'weight'"), r"i\.npy does not hold the 2 rows"),
    ],
)
def test_refuses_what_is_no_array_of_its_rows(tmp_path: Path, data: bytes, sentence: str) -> None:
    entry = save(tmp_path / "i.npy", data)
    with pytest.raises(ShardIndexError, match=sentence):
        load_index(tmp_path / "i.npy", entry)


def test_refuses_another_number_of_rows(tmp_path: Path) -> None:
    entry = save(tmp_path / "i.npy", index_to_bytes(INDEX), num_samples=3)
    with pytest.raises(ShardIndexError, match="3 rows"):
        load_index(tmp_path / "i.npy", entry)


def test_names_a_missing_file(tmp_path: Path) -> None:
    entry = save(tmp_path / "i.npy", index_to_bytes(INDEX))
    with pytest.raises(ShardIndexError, match=r"j\.npy: No such file"):
        load_index(tmp_path / "j.npy", entry)
