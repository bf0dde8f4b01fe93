"""Training configs by name, in a checkout and in a wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from esvit.commands.train import main
from esvit.training.presets import names, path_of
from pipeline.config import ConfigError

REPOSITORY = Path(__file__).parents[4]


def test_every_training_config_is_a_preset() -> None:
    assert names() == sorted(path.stem for path in (REPOSITORY / "configs/train").glob("*.yaml"))
    assert "swin_tiny_w7" in names()


def test_a_name_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swin_tiny_w7").mkdir()  # the folder of a run, say
    path = path_of("swin_tiny_w7")
    assert path.read_bytes() == (REPOSITORY / "configs/train/swin_tiny_w7.yaml").read_bytes()


def test_the_help_names_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["esvit-train", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert [name for name in names() if name not in said] == []


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("swin_tiny_w7.yaml", "mine"):
        (tmp_path / name).write_text("seed: 1\n")
        assert path_of(name) == Path(name)
    assert path_of(tmp_path / "mine") == tmp_path / "mine"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("swin_tny_w7", r"there is no preset 'swin_tny_w7', and no file .*; did you mean 'swin_tiny_w7' or"),
        ("zzz", r"there is no preset 'zzz', .*; the presets are .*digits_view.*swin_tiny_w7"),
        ("configs/swin_tiny_w7.yaml", r"cannot read config file configs/swin_.*; there is a preset .*: 'swin_tiny_w7'"),
        ("nowhere/mine.yaml", r"cannot read config file nowhere/mine\.yaml: there is no such file$"),
    ],
)
def test_a_wrong_name_gets_near_matches(wrong: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        path_of(wrong)


@pytest.mark.slow
def test_a_wheel_holds_the_presets(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("pipeline", "esvit", "tools", "configs"):
        shutil.copytree(REPOSITORY / folder, source / folder, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "from esvit.training import presets; print(presets.__file__); print(*presets.names()); "
        "presets.path_of('digits_view')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    file, found = done.stdout.splitlines()
    assert file == str(tmp_path / "site/esvit/training/presets.py") and found.split() == names()
