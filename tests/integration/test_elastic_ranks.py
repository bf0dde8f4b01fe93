"""Four ranks, one of them killed, gone on with on two and then on four again: ids and pixels of one whole run."""

from pathlib import Path
from typing import Any

import pytest

from support.ranks import SAVE_EVERY, run_ranks, saved_position
from support.shards import jpegs, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.s3]

STOP = 16  # in the fourth epoch of four steps each


def test_killed_and_resumed_on_other_world_sizes_equals_one_whole_run(
    s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    url = s3_server.new_url()
    images = jpegs(37)
    write_shards(url, images[:9], images[9:10], images[10:22], images[22:30], images[30:])
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    whole = run_ranks(url, one, world_size=1, stop=STOP)
    assert list(whole) == list(range(STOP))

    killed = run_ranks(url, many, world_size=4, stop=STOP, kill_at=5)  # in the middle of the second epoch
    first = saved_position(many)
    assert first >= 3 and first % SAVE_EVERY == 0 and max(killed) < STOP
    on_two = run_ranks(url, many, world_size=2, stop=12)
    assert list(on_two) == list(range(first, 12)) and saved_position(many) == 12
    on_four = run_ranks(url, many, world_size=4, stop=STOP)
    assert killed | on_two | on_four == whole
    for part in (killed, on_two, on_four):  # what was drawn twice, before the kill and after it, was the same
        assert all(whole[position] == samples for position, samples in part.items())
