"""docs/config.md has every key, as the code has it, and every key has a meaning."""

from pathlib import Path

import pytest

from esvit.training import config_reference, presets
from esvit.training.config import TrainConfig
from pipeline.config import ConfigError, load
from pipeline.config.keys import keys_of

PAGE = Path(__file__).parents[4] / "docs/config.md"


def test_every_key_has_a_meaning() -> None:
    assert [key.name for key in keys_of(TrainConfig) if not key.meaning] == []


def test_the_page_is_that_of_the_code() -> None:
    page = PAGE.read_text()
    hint = "run: python -m esvit.training.config_reference docs/config.md"
    assert config_reference.written(page) == page, hint
    assert all(f"| `{key.name}` |" in page for key in keys_of(TrainConfig))


def test_the_page_names_every_preset() -> None:
    assert [name for name in presets.names() if f"`{name}`" not in PAGE.read_text()] == []


def test_the_page_is_written_by_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{config_reference.BEGIN}of before\n{config_reference.END}after\n")
    monkeypatch.setattr("sys.argv", ["config_reference", str(page)])
    config_reference.main()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    assert "`schedule.epochs`" in page.read_text() and "of before" not in page.read_text()


def test_every_key_of_the_page_is_one_that_a_run_takes() -> None:
    given = {"output": "run", "global_batch": 8, "data": {"stream": {"shards": "shards"}}}
    for key in keys_of(TrainConfig):
        if "[]" in key.name or key.section is not None:
            continue
        try:
            load(TrainConfig, [given], [f"{key.name}=no such value"])
        except ConfigError as error:
            assert "unknown config key" not in str(error)
