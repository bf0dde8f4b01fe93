"""What is known of a key: from its type, its default and the docstring of its class."""

from typing import Annotated, Any

import pytest
from pydantic import Field, PositiveInt

from pipeline.config import Config
from pipeline.config.keys import keys_of, similar


class View(Config):
    """One size.

    Attributes:
        size (pixels): Side.
    """

    size: tuple[PositiveInt, PositiveInt]


class Schedule(Config):
    """Length and course,
    in epochs.

    Attributes:
        epochs: Of the run.
        warmup: Two lines
            of meaning.
    """

    def half(given: dict[str, Any]) -> int:  # type: ignore[misc]
        """half of it"""
        return given["epochs"] // 2

    epochs: PositiveInt = 4
    warmup: int = Field(default_factory=half, ge=0)


class Root(Config):
    """All.

    Attributes:
        rate: Of learning.
        views: Each of a size.
    """

    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    views: tuple[View, ...] = (View(size=(2, 3)),)
    schedule: Schedule = Schedule()


def test_a_key_is_described_by_its_code() -> None:
    found = {key.name: (key.kind, key.unit, key.default, key.meaning) for key in keys_of(Root)}
    assert [key.name for key in keys_of(Root) if key.has_value] == ["rate", "views", "schedule.epochs"]
    assert found == {
        "rate": ("number > 0 and ≤ 1 or null", "", "null", "Of learning."),
        "views": ("list of: section", "", "[{size: [2, 3]}]", "Each of a size."),
        "views[].size": ("[whole number > 0, whole number > 0]", "pixels", "required", "Side."),
        "schedule": ("section", "", "", "Length and course, in epochs."),
        "schedule.epochs": ("whole number > 0", "epochs", "4", "Of the run."),
        "schedule.warmup": ("whole number ≥ 0", "", "half of it", "Two lines of meaning."),
    }


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("schedule.epoch", ["schedule.epochs"]),
        ("shedule.epochs", ["schedule.epochs"]),
        ("epochs", ["schedule.epochs"]),
        ("Rate", ["rate"]),
        ("views[].sise", ["views[].size"]),
        ("schedule.xyz", []),
    ],
)
def test_a_mistyped_key_is_recognised(wrong: str, meant: list[str]) -> None:
    assert similar(wrong, Root) == meant
