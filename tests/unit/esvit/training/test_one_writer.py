"""A run among others: a second one is refused, one that has lost its place writes nothing, ranks that disagree stop."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from esvit.checkpoints import files
from esvit.checkpoints.files import CheckpointError
from esvit.checkpoints.lease import OutputHeldError, OutputLostError
from esvit.checkpoints.writer import Writer
from esvit.distributed import World
from esvit.training.agreement import DisagreementError, agree, digest_of, facts_of
from esvit.training.callbacks import Callbacks
from esvit.training.config import TrainConfig
from esvit.training.loop import train
from esvit.training.start import loader_of, started
from pipeline.store import Store
from support.tiny_runs import log, tiny_run

T = TypeVar("T")
CPU = torch.device("cpu")


def at_step(step: int, act: Callable[[], object]) -> Callbacks:
    return Callbacks(on_step=lambda event: act() if event.step == step else None)


def steps(config: TrainConfig) -> list[str]:
    return files.names(Store(Path(config.output) / "checkpoints"))


@pytest.mark.parametrize("other", ["the same", "another output", "another checkpoint folder"])
def test_a_second_run_is_refused_and_the_first_goes_on(tiny_shards: str, tmp_path: Path, other: str) -> None:
    first = tiny_run(tiny_shards, tmp_path / "run")
    second = {
        "the same": first,
        "another output": tiny_run(tiny_shards, tmp_path / "b", {"checkpoint": {"url": f"{tmp_path}/run/checkpoints"}}),
        "another checkpoint folder": tiny_run(
            tiny_shards, tmp_path / "run", {"checkpoint": {"url": f"{tmp_path}/c", "allow_start_over": True}}
        ),
    }[other]

    def begin_another() -> None:
        with pytest.raises(OutputHeldError):
            train(second)

    assert train(first, at_step(2, begin_another)) == 0
    assert [record["step"] for record in log(first)] == [1, 2, 3, 4]
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()
    assert train(first) == 0  # the place is free again


@pytest.mark.parametrize("place", ["checkpoints", "."])
def test_a_run_that_has_lost_its_place_ends_and_writes_nothing(tiny_shards: str, tmp_path: Path, place: str) -> None:
    config = tiny_run(tiny_shards, tmp_path)
    writers = tmp_path / place / "writers"

    def take_over() -> None:
        (writers / "00000002.json").write_text(Writer.here().model_dump_json())

    with pytest.raises(OutputLostError, match=r"has taken over .*; this run ends and writes nothing more"):
        train(config, at_step(3, take_over))
    assert [record["step"] for record in log(config)] == [1, 2]
    assert steps(config)[-1] == "step-00000002.pt"
    assert sorted(path.name for path in writers.iterdir()) == ["00000001.json", "00000002.json"]


def test_a_run_without_its_checkpoints_starts_over_only_if_it_is_told_to(tiny_shards: str, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, tmp_path / "run")
    train(config)
    for path in (tmp_path / "run/checkpoints").glob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(CheckpointError, match=r"files of a run: .*log\.jsonl; copy .*allow_start_over=true"):
        train(config)
    assert steps(config) == [] and len(log(config)) == 4
    assert train(tiny_run(tiny_shards, tmp_path / "run", {"checkpoint": {"allow_start_over": True}})) == 0
    assert [record["step"] for record in log(config)] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_kept_beside_the_one_that_replaces_it(tiny_shards: str, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, tmp_path)
    train(config)
    (tmp_path / "checkpoints/step-00000004.pt").write_bytes(b"damaged")
    assert train(config) == 0
    assert (tmp_path / "checkpoints/damaged/step-00000004.pt").read_bytes() == b"damaged"
    assert steps(config)[-1] == "step-00000004.pt"
    assert [record["step"] for record in log(config)] == [1, 2, 3, 4]


@dataclasses.dataclass(frozen=True)
class TwoRanks(World):
    """Rank 0 of two, the other of which has read the same, but for what `changes` says."""

    changes: Callable[[dict[str, str]], dict[str, str]] = dict

    def from_all(self, value: T) -> list[T]:
        return [value, self.changes(value)]  # type: ignore[arg-type, list-item]

    def any(self, flag: bool) -> bool:
        return flag

    def from_main(self, value: str) -> str:
        return value


def two_ranks(**changes: str) -> TwoRanks:
    return TwoRanks(0, 0, 2, CPU, lambda facts: {what: changes.get(what.split()[0], facts[what]) for what in facts})


@pytest.mark.parametrize("what", ["manifest", "order", "setting"])
def test_ranks_that_have_read_different_things_do_not_start(tiny_shards: str, tmp_path: Path, what: str) -> None:
    config = tiny_run(tiny_shards, tmp_path / "run")
    with pytest.raises(DisagreementError, match=rf"the ranks disagree on the {what}.* rank 1 has other; give"):
        started(config, two_ranks(**{what: "other"})).__enter__()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["", "start_from", "start_backbone_from"])
def test_ranks_that_have_read_different_checkpoints_do_not_start(tiny_shards: str, tmp_path: Path, key: str) -> None:
    train(tiny_run(tiny_shards, tmp_path / "run"))
    changes: dict[str, Any] = {"checkpoint": {key: f"{tmp_path}/run/checkpoints"}} if key else {}
    config = tiny_run(tiny_shards, tmp_path / ("new" if key else "run"), changes)
    with pytest.raises(DisagreementError, match=rf"the checkpoint {tmp_path}/run/checkpoints.*: rank 0 has"):
        started(config, two_ranks(checkpoint="other")).__enter__()
    assert not (tmp_path / "new").exists()


def test_what_a_node_may_choose_is_not_compared(tiny_shards: str, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, tmp_path)
    here = World(0, 0, 1, CPU)
    with loader_of(config, here) as loader:
        facts = facts_of(config, loader)
        own = config.replace(output="elsewhere", data={**config.data.model_dump(), "num_threads": 7})
        assert facts_of(own, loader) == facts
        other = facts_of(config.replace(seed=99), loader)
    assert {what for what in facts if facts[what] != other[what]} == {"setting seed"}
    assert any(what.startswith("manifest of ") for what in facts)


def test_a_difference_is_the_same_sentence_on_every_rank() -> None:
    ranks = [{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "1", "c": "3"}]
    sentences = set()
    for rank in range(3):
        here = TwoRanks(rank, 0, 3, CPU)
        object.__setattr__(here, "from_all", lambda _: ranks)
        with pytest.raises(DisagreementError) as caught:
            agree(here, ranks[rank])
        sentences.add(str(caught.value))
    assert len(sentences) == 1 and "on the b: rank 0 has 2, rank 2 has nothing" in sentences.pop()


def test_a_digest_covers_names_types_shapes_and_values() -> None:
    saved = {"a": {"b": torch.arange(4.0)}, "step": 1}
    same = {"a": {"b": torch.arange(4.0)}, "step": 1}
    others = [
        {"a": {"c": torch.arange(4.0)}, "step": 1},
        {"a": {"b": torch.arange(4.0).view(torch.int32)}, "step": 1},
        {"a": {"b": torch.arange(4.0).reshape(2, 2)}, "step": 1},
        {"a": {"b": -torch.arange(4.0)}, "step": 1},
        {"a": {"b": torch.arange(4.0)}, "step": 2},
    ]
    assert digest_of(saved) == digest_of(same)
    assert len({digest_of(value) for value in (saved, *others)}) == 6
    assert digest_of({"scalar": torch.tensor(1.0, dtype=torch.bfloat16)})
