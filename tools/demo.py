"""`make demo`: from a folder of images to a pre-trained EsViT and its k-NN score, with the project's own commands.

    images -> shard-builder -> torchrun esvit-train (view task) -> esvit-train (view + region) -> esvit-eval knn

Without `--data` the images are the 1,797 handwritten digits that ship inside scikit-learn.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.console.command import run_command
from pipeline.errors import UserError

_BIN = Path(sys.executable).parent
_CONFIGS = Path("configs/train")
_TEST_SHARE = 0.2
_RANKS = 2

console = Console(highlight=False, soft_wrap=True)


class DemoError(UserError):
    """A step of the demo failed, or the folder of images is not laid out as expected."""


def demo(arguments: argparse.Namespace) -> None:
    """Run all steps; every command is printed before it runs."""
    name = Path(arguments.data).resolve().name if arguments.data else "digits"
    output = Path(arguments.output) / name
    store = f"{arguments.store.rstrip('/')}/{name}" if arguments.store else str(output)
    images = output / "images"
    if not images.exists():
        _link_images(Path(arguments.data), images) if arguments.data else _write_digits(images)
    builds = {split: _build(images, split, f"{store}/shards/{split}") for split in ("train", "test")}

    view, region = (output / f"seed-{arguments.seed}" / phase for phase in ("view", "region"))
    configs = [_CONFIGS / "digits_view.yaml"]
    for run in (view, region):
        shutil.rmtree(run, ignore_errors=True)
    view_seconds = _train(arguments.seed, view, configs, f"{store}/shards/train")
    region_seconds = _train(
        arguments.seed,
        region,
        [*configs, _CONFIGS / "digits_region.yaml"],
        f"{store}/shards/train",
        f"checkpoint.start_from={view}/checkpoints",
    )
    before = _knn(view / "checkpoints/step-00000000.pt", store)
    after_view = _knn(view / "checkpoints", store)
    after = _knn(region / "checkpoints", store)
    _summarise(builds["train"], (view, view_seconds), (region, region_seconds), (before, after_view, after))


def _write_digits(folder: Path) -> None:
    """Write scikit-learn's digits (8 x 8 pixels, 17 grays) as 32 x 32 JPEG files: `{train,test}/CLASS/NUMBER.jpg`."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"{i:04d}.jpg"
        path = folder / _split_of(name) / str(label) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).astype("uint8"))
        image.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=95)
    console.print(f"wrote {len(digits.target)} images of handwritten digits to {folder}")


def _link_images(source: Path, folder: Path) -> None:
    """Link the user's DIR/<class>/<file> into train/ and test/; a hash of the name decides the split."""
    files = list(_images_in(source))
    if not files:
        raise DemoError(f"{source} has no images; expected {source}/<class>/<file>.jpg (or .png, .webp)")
    for path in files:
        link = folder / _split_of(f"{path.parent.name}/{path.name}") / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    console.print(f"linked {len(files)} images of {source} into {folder}")


def _images_in(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        raise DemoError(f"there is no folder {source}")
    for path in sorted(source.glob("*/*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            yield path


def _split_of(name: str) -> str:
    # Salted: if the user selected the images by the same hash, all would fall into one split.
    draw = int.from_bytes(hashlib.sha256(f"demo {name}".encode()).digest()[:4], "big") / 2**32
    return "test" if draw < _TEST_SHARE else "train"


def _build(images: Path, split: str, url: str) -> dict[str, Any]:
    return _json_of(
        _BIN / "shard-builder", "build", "--dataset", "image-folder", "--source", images, "--split", split,
        "--dest", url, "--shard-size", "256KB", "--json",
    )  # fmt: skip


def _train(seed: int, output: Path, configs: list[Path], shards: str, *overrides: str) -> float:
    command = [_BIN / "torchrun", "--standalone", "--nproc-per-node", _RANKS, "-m", "esvit.train"]
    for config in configs:
        command += ["--config", config]
    for override in (f"output={output}", f"seed={seed}", f"data.stream.shards={shards}", *overrides):
        command += ["--set", override]
    begin = time.monotonic()
    _run(command)
    return time.monotonic() - begin


def _knn(checkpoint: Path, store: str) -> dict[str, Any]:
    return _json_of(
        _BIN / "esvit-eval", "knn", "--checkpoint", checkpoint, "--train", f"{store}/shards/train",
        "--test", f"{store}/shards/test", "--size", 32, "--resize", 32, "--json",
    )  # fmt: skip


def _json_of(*command: object) -> dict[str, Any]:
    """The JSON line that a command ends with."""
    result: dict[str, Any] = json.loads(_run(list(command), stdout=subprocess.PIPE).splitlines()[-1])
    return result


def _run(command: list[Any], stdout: int | None = None) -> str:
    words = [str(word) for word in command]
    console.print(f"[bold]$ {shlex.join([Path(words[0]).name, *words[1:]])}[/bold]")
    # Two ranks share the cores: one thread per rank. torchrun would choose the same, with a warning.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, stdout=stdout, text=True, env=environment, check=False)
    if done.returncode:
        raise DemoError(f"the command above failed with exit status {done.returncode}")
    return done.stdout or ""


def _summarise(
    build: dict[str, Any],
    view: tuple[Path, float],
    region: tuple[Path, float],
    scores: tuple[dict[str, Any], ...],
) -> None:
    first, last = _read_log(view[0])[0], _read_log(region[0])[-1]
    speeds = [record["images_per_second"] for run, _ in (view, region) for record in _read_log(run)]
    before, after_view, after = (100 * score["top1"] for score in scores)
    table = Table("demo", "", show_header=False)
    rate = "built before" if build["was_complete"] else f"built at {build['mb_per_s']} MB/s"
    table.add_row("shards", f"{build['num_samples']} samples in {build['num_shards']} shards, {rate}")
    table.add_row("training", f"{sorted(speeds)[len(speeds) // 2]:.0f} images/s on {_RANKS} ranks, "
                              f"{view[1]:.0f} s view + {region[1]:.0f} s view + region")  # fmt: skip
    table.add_row("loss", f"{first['loss']:.3f} first, {last['loss']:.3f} last")
    table.add_row("k-NN top-1", f"{before:.1f} % at initialisation, {after_view:.1f} % after the view task, "
                                f"{after:.1f} % after view + region")  # fmt: skip
    for name in ("checkpoints", "config.yaml", "log.jsonl", "metrics-rank-0.prom"):
        table.add_row(name, str(region[0] / name))
    console.print(table)


def _read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="From a folder of images to a pre-trained EsViT.")
    parser.add_argument("--data", default="", metavar="DIR", help="your images, DIR/<class>/<file>; default: digits")
    parser.add_argument("--store", default="", metavar="URL", help="where shards go, e.g. s3://bucket/prefix")
    parser.add_argument("--output", default="demo-output", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Entry of `make demo`."""
    arguments = parse_arguments()
    run_command(lambda: demo(arguments))


if __name__ == "__main__":
    main()
