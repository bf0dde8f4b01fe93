"""What YAML has beyond plain values is refused in a sentence that names the key."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from pipeline.config import Config, ConfigError, load


class Own(Config):
    """A part with free options.

    Attributes:
        name: Text.
        options: Anything.
    """

    name: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in itertools.pairwise("abcdefgh")
)
CASES = {
    "name: 2024-01-01": "config key 'name' is a date in YAML; put it in quotes if it is text",
    "options: {since: 2024-01-01T00:00:00}": "config key 'options.since' is a date",
    "options: {x: !!binary /w==}": "config key 'options.x' is binary data",
    "options: {x: !!set {a, b}}": "config key 'options.x' is a set",
    "options: {2024-01-01: 1}": "config key 'options.2024-01-01' is no text; put the key in quotes",
    "3: 4": "config key '3' is no text",
    "options: {x: " + "[" * 40 + "]" * 40 + "}": "is nested more than 30 levels deep",
    "name: " + "[" * 9000: "is not valid YAML",
    "options: &o {x: *o}": "is nested more than 30 levels deep",
    "options: {x: &o [*o]}": "is nested more than 30 levels deep",
    "name: !!python/object/apply:os.system [id]": "is not valid YAML: could not determine a constructor for the tag",
    "name: !own x": "is not valid YAML: could not determine a constructor for the tag '!own'",
    'name: "a\\0b"': "config key 'name' contains a NUL character",
    "name: s3://KEY:SECRET@bucket/x": "config key 'name' contains a password, a key or a signature",
    "options: {urls: ['https://h/x?sig=SECRET']}": "config key 'options.urls.0' contains a password",
    BOMB: "a config has at most 100,000 values",
    "# " + "x" * 1_000_000: "has more than 1,000,000 characters",
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", CASES, ids=lambda text: text[:40])
def test_what_is_not_plain_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Own, [tmp_path / "a.yaml"])
    assert CASES[text] in str(caught.value)
    assert len(str(caught.value)) < 500 and "SECRET" not in str(caught.value)


def test_an_override_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="config key 'name' is a date in YAML"):
        load(Own, [], ["name=2024-01-01"])
    assert load(Own, [], ["name='2024-01-01'"]).name == "2024-01-01"


def test_a_device_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="config file /dev/zero has more than"):
        load(Own, ["/dev/zero"])
