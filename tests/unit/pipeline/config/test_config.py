"""Config files, overrides, and the sentences about what is wrong with them."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import PositiveInt, ValidationError

from pipeline.config import Config, ConfigError, dump, load, save


class Optim(Config):
    lr: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.999)


class Part(Config):
    weight: float = 1.0


class Run(Config):
    name: str
    mode: Literal["fast", "exact"] = "exact"
    parts: tuple[Part, ...] = ()
    steps: PositiveInt = 1
    amp: bool = False
    limit: int | None = 5
    optim: Optim = Optim()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text("name: base\nsteps: 10\noptim:\n  lr: 0.5\n  betas: [0.8]\n")
    return path


def test_later_files_win_key_by_key_and_overrides_win_over_files(base: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("steps: 20\noptim: {lr: 0.25}\n")
    config = load(Run, [base, later], ["steps=30"])
    assert (config.name, config.steps) == ("base", 30)
    assert config.optim == Optim(lr=0.25, betas=(0.8,))


def test_an_empty_file_changes_nothing(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(Run, [base, tmp_path / "empty.yaml"]) == load(Run, [base])


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("name=run=1", "name", "run=1"),
        ("steps=7", "steps", 7),
        ("amp=true", "amp", True),
        ("limit=null", "limit", None),
        ("optim.lr=3e-4", "optim", Optim(lr=3e-4)),
        ("optim.betas=[0.5, 1]", "optim", Optim(betas=(0.5, 1.0))),
        ("optim={lr: 2}", "optim", Optim(lr=2)),
    ],
)
def test_an_override_is_yaml(override: str, key: str, value: object) -> None:
    assert getattr(load(Run, [], ["name=x", override]), key) == value


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["name=x", "optim.lrr=1"], "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["name=x", "opitm.lr=1"], "unknown config key 'opitm'; did you mean 'optim'?"),
        (["nam=x"], "unknown config key 'nam'; did you mean 'name'?; config key 'name' is required"),
        (["name=x", "optim.foo=1"], "unknown config key 'optim.foo'; optim has lr, betas"),
        (["name=x", "zzz=1"], "unknown config key 'zzz'; a config has name, mode, parts, steps, amp, limit, optim"),
        (["name=x", "parts=[{}, {wieght: 2}]"], "unknown config key 'parts.1.wieght'; did you mean 'parts[].weight'?"),
        (
            ["name=x", "mode=fsat"],
            "config key 'mode': Input should be 'fast' or 'exact' (got 'fsat'); did you mean 'fast'?",
        ),
        ([], "config key 'name' is required"),
        (["name=x", "steps=0"], "config key 'steps': Input should be greater than 0 (got 0)"),
        (
            ["name=x", "lr=1", "step=2"],
            "unknown config key 'lr'; did you mean 'optim.lr'?; unknown config key 'step'; did you mean 'steps'?",
        ),
        (["name"], "override 'name' is not of the form key.subkey=value"),
        (["optim..lr=1"], "override 'optim..lr=1' is not of the form key.subkey=value"),
        (["name=[1"], "override 'name=[1': the value is not valid YAML"),
    ],
)
def test_a_wrong_key_or_value_is_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(Run, [], overrides)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"a: [1", "is not valid YAML"), (b"\xff\xfe\xff", "is not valid YAML"), (b"- 1\n", "must hold a mapping")],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as error:
        load(Run, [path])
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read config file .*none\.yaml: No such file"):
        load(Run, [tmp_path / "none.yaml"])


def test_a_mapping_is_merged_like_a_file_and_stays_as_it_was(base: Path) -> None:
    given: dict[str, Any] = {"optim": {"lr": 0.25}}
    config = load(Run, [base, given], ["optim.betas=[0.1]"])
    assert config.optim == Optim(lr=0.25, betas=(0.1,)) and given == {"optim": {"lr": 0.25}}


def test_an_override_of_a_section_leaves_another_that_shares_its_yaml_alias(tmp_path: Path) -> None:
    class Two(Config):
        a: Optim
        b: Optim

    (tmp_path / "two.yaml").write_text("a: &same {lr: 1}\nb: *same\n")
    config = load(Two, [tmp_path / "two.yaml"], ["b.lr=2"])
    assert (config.a.lr, config.b.lr) == (1, 2)


def test_other_defaults_leave_what_was_given() -> None:
    config = Run(name="x", steps=3).with_defaults(steps=7, amp=True)
    assert (config.steps, config.amp) == (3, True)
    assert config.model_dump(exclude_unset=True) == {"name": "x", "steps": 3}


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))
optims = st.builds(Optim, lr=st.floats(allow_nan=False), betas=st.lists(st.floats(0, 1)).map(tuple))


@given(st.builds(Run, name=names, steps=st.integers(1), amp=st.booleans(), optim=optims))
def test_what_was_saved_loads_the_same(tmp_path_factory: pytest.TempPathFactory, config: Run) -> None:
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    save(config, path)
    assert load(Run, [path]) == config


def test_keys_are_saved_in_the_order_of_their_declaration() -> None:
    assert [line.split(":")[0] for line in dump(Run(name="x")).splitlines() if line[0] not in " -"] == list(
        Run.model_fields
    )


@pytest.mark.parametrize("change", [{"steps": 0}, {"unknown": 1}])
def test_a_config_is_frozen_and_its_copies_are_checked(change: dict[str, Any]) -> None:
    config = Run(name="x")
    with pytest.raises(ValidationError):
        config.steps = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.replace(**change)
    assert config.replace(steps=3) == Run(name="x", steps=3)


TOKENS = [
    "name", "parts", ":", ": ", "- ", "\n", "  ", "{", "}", "[", "]", "&a", "*a", "<<: *a", "!!int x", "!!binary",
    "!!float y", "2020-99-99", "0x", "1_0", "1:99", ".inf", "~", "|", "'", '"', '"\\ud800"', "%", "@", "\0", "\x85",
    "9" * 5000, "[" * 3000, "1: 2", "optim: &b {lr: *b}", "steps: .nan", "!!timestamp x", "!!python/object:x",
]  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TOKENS) | st.text(max_size=4), max_size=8).map("".join) | st.binary(max_size=30))
@example("steps: !!int x")
@example("name: !!timestamp x")
@example("name: 2020-99-99")
@example("name: " + "9" * 5000)
@example("[" * 3000)
def test_any_text_is_a_config_or_one_sentence(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    value = text.decode("utf-8", "ignore") if isinstance(text, bytes) else text
    for files, overrides in (([path], []), ([], ["name=a", f"steps={value}"]), ([], [value])):
        try:
            load(Run, files, overrides)
        except ConfigError as error:
            assert str(error) and len(str(error)) < 2500
