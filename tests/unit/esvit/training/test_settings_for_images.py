"""Which settings a run on a folder of images gets: a preset, those that were given, or those it began with."""

from pathlib import Path

import numpy as np
import pytest

from conftest import smooth_image
from esvit.training import fitted, images
from esvit.training.api import resolved_for_images
from esvit.training.fitted import Machine
from esvit.training.images import ImagesError, scan
from pipeline.config import ConfigError, save


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty images in one folder; the cache is empty, to build is a failure, and there is no GPU."""
    monkeypatch.setattr("esvit.training.api.this_machine", lambda _device: Machine(gpu_bytes=None))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "_BUILDER", ["/no/builder"])
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        smooth_image(rng, 24, 30).save(folder / f"{number}.jpg")
    return folder


def _output(tmp_path: Path) -> dict[str, str]:
    return {"output": str(tmp_path / "run")}


def test_a_preset_is_fitted_and_reads_the_shards_in_the_cache(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolved_for_images(photos, overrides=_output(tmp_path), build=False)
    assert config.data.stream.shards == str(scan(photos).cached)
    assert (config.global_batch, config.model.backbone.name) == (8, "swin_nano")
    assert capsys.readouterr().err == (
        "images: for 40 images and no GPU: preset own_images_cpu with a batch of 8 and 8 prototypes; all settings will "
        f"be in {tmp_path}/run/config.yaml\n"
    )


def test_overrides_win_over_what_was_fitted(photos: Path, tmp_path: Path) -> None:
    overrides = {**_output(tmp_path), "global_batch": 20, "model": {"head": {"num_prototypes": 33}}}
    config = resolved_for_images(photos, overrides=overrides, build=False)
    assert (config.global_batch, config.model.head.num_prototypes) == (20, 33)
    assert config.model.backbone.name == "swin_nano"


def test_a_config_that_is_given_takes_the_place_of_the_preset(photos: Path, tmp_path: Path) -> None:
    config = resolved_for_images(photos, "swin_tiny_w7", _output(tmp_path), build=False)
    assert (config.global_batch, config.model.backbone.name) == (512, "swin_tiny")
    assert config.data.stream.shards == str(scan(photos).cached)


def test_a_run_that_has_begun_goes_on_with_its_settings_on_another_machine(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = resolved_for_images(photos, overrides={**_output(tmp_path), "seed": 7}, build=False)
    (tmp_path / "run").mkdir()
    save(begun, tmp_path / "run/config.yaml")
    monkeypatch.setattr("esvit.training.api.this_machine", lambda _device: Machine(25 * 10**9, num_ranks=2))
    assert resolved_for_images(photos, overrides=_output(tmp_path), build=False) == begun


def test_a_mistake_in_the_settings_is_found_before_anything_is_built(photos: Path, tmp_path: Path) -> None:
    for overrides, sentence in {
        ("epochs=3",): "unknown config key 'epochs'; did you mean 'schedule.epochs'",
        ("schedule.epochs=0",): "schedule.epochs",
        ("device=gpu",): "device",
        ("data.stream.shards=/elsewhere",): "not on both; give one of them",
    }.items():
        with pytest.raises((ConfigError, ImagesError), match=sentence):
            resolved_for_images(photos, overrides=[f"output={tmp_path}/run", *overrides])
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_too_few_images_are_refused_before_anything_is_built(photos: Path, tmp_path: Path) -> None:
    for image in sorted(photos.iterdir())[: 40 - fitted.MIN_IMAGES + 1]:
        image.unlink()
    with pytest.raises(fitted.TooFewImagesError, match="7 images are too few to pre-train: it takes 8 to start"):
        resolved_for_images(photos, overrides=_output(tmp_path))
    assert not (tmp_path / "cache").exists()
