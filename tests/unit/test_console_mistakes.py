"""Every mistake on a command line is one sentence and exit status 2, and nothing is written."""

import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from support import console
from support.shards import encode, picture
from tools.shard_builder.build.run import BuildOptions, build

SOURCE = "--dataset image-folder --source {images} --split train"
BUILD = f"shard-builder build {SOURCE} --dest {{out}} --num-workers 1"
PLAN = f"shard-builder plan {SOURCE} --global-batch 8"
BENCH = "shard-builder bench --source {images} --dest {out} --num-workers 1"
KNN = "esvit-eval knn --checkpoint {nothing} --train {shards} --test {shards}"
EXPORT = "esvit-eval export --checkpoint {nothing} --dest {out}"
HUGE = "9" * 30

NO_WORDS = {
    "shard-builder": "required: COMMAND",
    "pipeline-bench": "required: COMMAND",
    "esvit-eval": "required: COMMAND",
    "esvit-train": "give --images DIR, a folder of images, or --config, a preset or a YAML file; see",
    "esvit-train --output {out}": "give --images DIR, a folder of images, or --config",
    "shard-builder nosuch": "invalid choice: 'nosuch'",
    "pipeline-bench nosuch": "choose from 'crops', 'stream', 'first', 'shuffle', 'soak', 'clients'",
    "esvit-eval nosuch": "choose from 'knn', 'export'",
    "shard-builder build": "required: --dataset, --source, --split, --dest",
    "shard-builder plan": "required: --dataset, --source, --split",
    "shard-builder finalize": "required: --dest",
    "shard-builder verify": "required: URL",
    "shard-builder stats": "required: URL",
    "shard-builder show": "required: URL",
    "shard-builder diff": "required: A, B",
    "shard-builder copy {shards}": "required: TO",
    "shard-builder bench": "required: --source, --dest",
    "pipeline-bench crops": "required: URL; see 'pipeline-bench crops --help'",
    "pipeline-bench stream": "required: URL",
    "pipeline-bench shuffle": "required: URL",
    "pipeline-bench soak": "required: URL",
    "pipeline-bench clients": "required: URL",
    "esvit-eval knn": "required: --checkpoint, --train, --test",
    "esvit-eval export": "required: --checkpoint, --dest",
}
NAMES = {
    "shard-builder verify {shards} --workers 2": "unknown argument '--workers', did you mean --num-workers?",
    "pipeline-bench crops {shards} --threads 2": "unknown argument '--threads', did you mean --num-threads?",
    "pipeline-bench crops {shards} --batch 2": "did you mean --batch-size?",
    "esvit-bench --batch 2": "did you mean --batch-size?",
    "esvit-eval knn --no-such-flag": "required: --checkpoint",
    f"{KNN} --nosuch": "unknown argument '--nosuch'; see 'esvit-eval knn --help'",
    "shard-builder verify {shards} {shards}": "unknown argument",
    "shard-builder datasets nosuch": "invalid choice: 'nosuch'",
}
EVAL = {
    f"{KNN} --neighbours 10,,20": "argument --neighbours: '' is not a whole number from 1 on",
    f"{KNN} --neighbours 0": "argument --neighbours: '0' is not a whole number from 1 on",
    f"{KNN} --neighbours 10;20": "argument --neighbours: '10;20' is not a whole number from 1 on",
    f"{KNN} --temperature 0": "argument --temperature: '0' is not a number above 0",
    f"{KNN} --temperature nan": "argument --temperature: 'nan' is not a number above 0",
}
SHARD_BUILDER = {
    f"{BUILD} --dest ''": "argument --dest: it is empty",
    f"{BUILD} --source ''": "argument --source: it is empty",
    f"{BUILD} --source {{nothing}}": "cannot read source",
    f"{BUILD} --source /etc/passwd": "cannot read source /etc/passwd",
    f"{BUILD} --dest /etc/passwd": "cannot write /etc/passwd",
    f"{BUILD} --dest nosuch://x": "cannot use nosuch://x as a store",
    f"{BUILD} --dataset nosuch": "argument --dataset: invalid choice: 'nosuch'",
    f"{BUILD} --split ''": "argument --split: '' may hold only a-z",
    f"{BUILD} --split a/b": "argument --split: 'a/b' may hold only a-z",
    f"{BUILD} --shard-size 4": "argument --shard-size: '4' is too small",
    f"{BUILD} --shard-size 2KB": "is too small",
    f"{BUILD} --shard-size 0": "argument --shard-size: '0' is not a size",
    f"{BUILD} --shard-size -5": "'-5' is not a size",
    f"{BUILD} --shard-size nan": "'nan' is not a size",
    f"{BUILD} --shard-size {HUGE}GB": "is not a size",
    f"{BUILD} --shard-range 9:3": "--shard-range 9:3 holds no shard: the plan has 1, numbers 0 to 0",
    f"{BUILD} --shard-range 50:60": "--shard-range 50:60 holds no shard: the plan has 1",
    f"{BUILD} --shard-range 50:": "--shard-range 50: holds no shard: the plan has 1",
    f"{BUILD} --shard-range 0:0": "--shard-range 0:0 holds no shard: the plan has 1",
    f"{BUILD} --shard-range 3": "argument --shard-range: '3' is not a range",
    f"{BUILD} --shard-range=-1:3": "argument --shard-range: '-1:3' is not a range",
    f"{BUILD} --shuffle-seed -1": "argument --shuffle-seed: '-1' is not a whole number from 0 on",
    f"{BUILD} --shuffle-seed {2**64}": "is too large",
    f"{BUILD} --shuffle-seed 1 --no-shuffle": "not allowed with argument --shuffle-seed",
    f"{BUILD} --max-rejects -1": "argument --max-rejects: '-1' is not a whole number from 0 on",
    f"{BUILD} --shorter-side 0": "argument --shorter-side: '0' is not a whole number from 1 on",
    f"{BUILD} --longer-side 70000": "argument --longer-side: 70000 is too large, the largest is 65535",
    f"{BUILD} --shorter-side 9 --longer-side 8": "--longer-side 8 is less than --shorter-side 9",
    f"{BUILD} --jpeg-quality 101": "argument --jpeg-quality: 101 is too large, the largest is 100",
    f"{BUILD} --jpeg-quality 0": "argument --jpeg-quality: '0' is not a whole number from 1 on",
    f"{BUILD} --grayscale maybe": "argument --grayscale: invalid choice: 'maybe'",
    f"{BUILD} --engine threads": "argument --engine: invalid choice: 'threads'",
    f"{BUILD} --ray-address 127.0.0.1:1": "--ray-address needs --engine ray",
    f"{BUILD} --engine ray --ray-address ''": "argument --ray-address: it is empty",
    f"{BUILD} --num-workers 0": "argument --num-workers: '0' is not a whole number from 1 on",
    f"{BUILD} --num-workers 99999999": "argument --num-workers: 99999999 is too large",
    f"{BUILD} --metrics-port 99999999": "argument --metrics-port: 99999999 is too large, the largest is 65535",
    f"{BUILD} --metrics-port -1": "argument --metrics-port: '-1' is not a whole number from 0 on",
    f"{BUILD} --metrics-port 0 --metrics-address ''": "argument --metrics-address: it is empty",
    f"{BUILD} --metrics-port 0 --metrics-address 999.1.1.1": "metrics endpoint cannot listen on 999.1.1.1",
    f"{BUILD} --metrics-address 127.0.0.1": "--metrics-address needs --metrics-port",
    "shard-builder finalize --dest {nothing}": "no build was begun there",
    "shard-builder finalize --dest {shards} --max-rejects -1": "argument --max-rejects",
    f"{PLAN} --world-size 0": "argument --world-size: '0'",
    f"{PLAN} --world-size 3": "global batch 8 cannot be split evenly over 3 ranks",
    f"{PLAN} --world-size 2147483647 --ranks-per-node 1": "cannot be split evenly over 2147483647 ranks",
    f"{PLAN} --world-size 8 --ranks-per-node 3": "8 ranks do not fill nodes of 3",
    f"{PLAN} --global-batch 512": "the data set has 24 samples, fewer than one global batch of 512",
    f"{PLAN} --images-per-s 0": "argument --images-per-s",
    f"{PLAN} --lanes 3": "is not a multiple of order.lanes 3",
    f"{PLAN} --block-shards 1.5": "argument --block-shards: '1.5' is not a whole number",
    "shard-builder verify ''": "argument URL: it is empty",
    "shard-builder verify {nothing}": "holds no manifest.json",
    "shard-builder verify {shards} --state ''": "argument --state: it is empty",
    "shard-builder verify {shards} --state /etc": "cannot use --state /etc",
    "shard-builder stats {shards} --html ''": "argument --html: it is empty",
    "shard-builder stats {shards} --html /etc": "cannot write /etc",
    "shard-builder stats {shards} --html x --json": "not allowed with argument",
    "shard-builder show {shards} --index 24": "has no sample 24: its samples are 0 to 23",
    "shard-builder show {shards} --index -1": "argument --index: '-1' is not a whole number from 0 on",
    f"shard-builder show {{shards}} --index {HUGE}": "is too large",
    "shard-builder show {shards} --count 0": "argument --count: '0' is not a whole number from 1 on",
    "shard-builder show {shards} --count \u0663": "is not a whole number from 1 on",
    "shard-builder show {shards} --output a.png --extract b": "not allowed with argument --output",
    "shard-builder diff {shards} {shards} --limit -1": "argument --limit: '-1' is not a whole number from 0 on",
    "shard-builder diff {shards} {nothing}": "holds no manifest.json",
    "shard-builder copy {shards} ''": "argument TO: it is empty",
    "shard-builder copy {shards} /etc/passwd": "cannot write /etc/passwd",
    "shard-builder copy {shards} {out} --num-workers 0": "argument --num-workers: '0'",
    f"{BENCH} --gigabytes 0": "argument --gigabytes: '0' is not a number above 0",
    f"{BENCH} --gigabytes nan": "argument --gigabytes: 'nan' is not a number above 0",
    f"{BENCH} --gigabytes inf": "argument --gigabytes: 'inf' is not a number above 0",
    f"{BENCH} --gigabytes 1e9": "needs 2,000,000,000.0 GB in ",
    f"{BENCH} --rounds 0": "argument --rounds: '0'",
    f"{BENCH} --dest {{shards}}": "is not empty, and bench removes it at the end",
    f"{BENCH} --dest /etc/passwd": "cannot write /etc/passwd",
}
PIPELINE_BENCH = {
    "pipeline-bench crops ''": "argument URL: it is empty",
    "pipeline-bench crops {nothing}": "holds no manifest.json",
    "pipeline-bench crops {shards} --num-threads 0": "argument --num-threads: '0' is not a whole number from 1 on",
    "pipeline-bench crops {shards} --num-threads 99999": "argument --num-threads: 99999 is too large",
    "pipeline-bench crops {shards} --rounds 0": "argument --rounds: '0'",
    "pipeline-bench crops {shards} --batch-size -8": "argument --batch-size: '-8'",
    "pipeline-bench crops {shards} --images 0": "argument --images: '0'",
    "pipeline-bench crops {shards} --executor ''": "argument --executor: '' is not one of reference, cpu",
    "pipeline-bench crops {shards} --executor gpu": "argument --executor: 'gpu' is not one of reference, cpu",
    "pipeline-bench crops {shards} --executor cpu,cpu": "has the same name twice",
    "pipeline-bench crops {shards} --recipe nosuch": "argument --recipe: invalid choice: 'nosuch'",
    "pipeline-bench crops {shards} --dtype int4": "argument --dtype: invalid choice: 'int4'",
    "pipeline-bench crops {shards} --device tpu": "argument --device: invalid choice: 'tpu'",
    "pipeline-bench crops {shards} --parity --executor cpu": "name two or more with --executor",
    "pipeline-bench crops {shards} --parity --sheet a.png": "not allowed with argument --parity",
    "pipeline-bench crops {shards} --parity --plot a.svg": "not allowed with argument --parity",
    "pipeline-bench crops {shards} --sheet ''": "argument --sheet: it is empty",
    "pipeline-bench stream {shards}": "the data set has 24 samples, fewer than one global batch of 64",
    "pipeline-bench stream {shards} --batch-size 8 --lanes 3": "is not a multiple of order.lanes 3",
    "pipeline-bench stream {shards} --lanes 0": "argument --lanes: '0'",
    "pipeline-bench stream {shards} --rounds 0": "argument --rounds: '0'",
    "pipeline-bench stream {shards} --num-threads -1": "argument --num-threads: '-1'",
    "pipeline-bench stream {shards} --cache-dir ''": "argument --cache-dir: it is empty",
    "pipeline-bench stream {shards} --cache-dir /etc/passwd": "cannot use --cache-dir /etc/passwd",
    "pipeline-bench shuffle {shards} --batch-size 1": "argument --batch-size: '1' is not a whole number from 2 on",
    "pipeline-bench shuffle {shards} --batch-size 24": "24 samples are fewer than two batches of 24",
    "pipeline-bench shuffle {shards} --batch-size 8 --order ''": "argument --order: ''",
    "pipeline-bench shuffle {shards} --batch-size 8 --order 8x": "argument --order: '8x' is not of the form",
    "pipeline-bench shuffle {shards} --batch-size 8 --order 0x1": "argument --order: '0' is not a whole number",
    "pipeline-bench shuffle {shards} --batch-size 8 --order 3x1": "is not a multiple of order.lanes 3",
    "pipeline-bench shuffle {shards} --batch-size 8 --seed -1": "argument --seed: '-1'",
    "pipeline-bench shuffle {unlabelled} --batch-size 8": "does not have one label per image",
    "pipeline-bench soak {shards} --seconds 0": "argument --seconds: '0' is not a number above 0",
    "pipeline-bench soak {shards} --seconds nan": "argument --seconds: 'nan'",
    "pipeline-bench soak {shards} --seconds 1e999": "argument --seconds: '1e999'",
    "pipeline-bench soak {shards} --seconds 0.01 --batch-size 8": "0.01 seconds are too short",
    "pipeline-bench soak {shards} --cache-bytes -1": "argument --cache-bytes: '-1' is not a size",
    "pipeline-bench soak {shards} --cache-bytes 0": "argument --cache-bytes: '0' is not a size",
    "pipeline-bench soak {shards} --lanes 7": "is not a multiple of order.lanes 7",
    "pipeline-bench soak {shards} --batch-size 8 --cache-dir /etc/passwd": "cannot use --cache-dir /etc/passwd",
    "pipeline-bench clients {shards}": "give a URL that begins with s3://",
    "pipeline-bench clients {shards} --rounds 0": "argument --rounds: '0'",
    "pipeline-bench clients {shards} --num-threads 0": "argument --num-threads: '0'",
}
ESVIT = {
    f"{KNN} --size 0": "argument --size: '0' is not a whole number from 1 on",
    f"{KNN} --size 99999": "argument --size: 99999 is too large",
    f"{KNN} --size 32 --resize 31": "--resize 31 leaves no room for a crop of --size 32",
    f"{KNN} --resize -1": "argument --resize: '-1'",
    f"{KNN} --batch-size -8": "argument --batch-size: '-8'",
    f"{KNN} --num-threads 0": "argument --num-threads: '0'",
    f"{KNN} --executor nosuch": "argument --executor: invalid choice: 'nosuch'",
    f"{KNN} --device tpu": "argument --device: invalid choice: 'tpu'",
    f"{KNN} --network both": "argument --network: invalid choice: 'both'",
    f"{KNN} --train ''": "argument --train: it is empty",
    f"{KNN} --cache-dir ''": "argument --cache-dir: it is empty",
    KNN: "there is no checkpoint",
    EXPORT: "there is no checkpoint",
    f"{EXPORT} --dest ''": "argument --dest: it is empty",
    f"{EXPORT} --checkpoint ''": "argument --checkpoint: it is empty",
    "esvit-train --config ''": "argument --config: it is empty",
    "esvit-train --images '' --output {out}": "argument --images: it is empty",
    "esvit-train --images {images} --output ''": "argument --output: it is empty",
    "esvit-train --images {nothing} --output {out}": "there is no folder {nothing}",
    "esvit-train --images s3://bucket/photos --output {out}": "--images takes a local folder of images",
    "esvit-train --images {shards} --output {out}": "holds shards, not images; use --set data.stream.shards={shards}",
    "esvit-train --images {images} --output {out} --set epochs=1": "did you mean 'schedule.epochs'",
    "esvit-train --images {images} --output {out} --set data.stream.shards={shards}": "give one of them",
    "esvit-train --config {nothing}": "{nothing}",
    "esvit-train --config configs/train/digits_view.yaml --set ''": "argument --set: it is empty",
    "esvit-train --config configs/train/digits_view.yaml --set seed": "is not of the form key.subkey=value",
    "esvit-train --config digits_view --json": "--json is for --check",
    "esvit-train --config digits_view --check --print-config": "not allowed with argument --check",
    "esvit-train --config digits_wiev": "digits_view",
    "esvit-bench ''": "argument URL: it is empty",
    "esvit-bench {nothing}": "holds no manifest.json",
    "esvit-bench --backbone nosuch": "nosuch",
    "esvit-bench --batch-size -8": "argument --batch-size: '-8'",
    "esvit-bench --num-threads 0": "argument --num-threads: '0'",
    "esvit-bench --num-threads 99999": "argument --num-threads: 99999 is too large",
    "esvit-bench --rounds 0": "argument --rounds: '0'",
    "esvit-bench --views 0x224": "argument --views: '0x224'",
    "esvit-bench --views 1x224": "at least two crops",
    "esvit-bench --views ''": "argument --views: ''",
    "esvit-bench --backbone swin_nano --views 2x1": "--views 2x1: the network cannot take images of 1 x 1 pixels: ",
    "esvit-bench --prototypes 1": "argument --prototypes",
    "esvit-bench --variant nosuch": "argument --variant: 'nosuch' is not one of",
    "esvit-bench --precision fp64": "argument --precision: invalid choice: 'fp64'",
    "esvit-bench --device tpu": "argument --device: invalid choice: 'tpu'",
}
MISTAKES = NO_WORDS | NAMES | EVAL | SHARD_BUILDER | PIPELINE_BENCH | ESVIT
WITHOUT_A_GPU = ("pipeline-bench crops {shards} --device cuda", "esvit-bench --device cuda")


class Places(NamedTuple):
    """What command lines are about."""

    images: Path
    shards: Path
    unlabelled: Path
    nothing: Path
    out: Path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("mistakes")
    for number in range(24):
        path = root / f"images/train/{'ab'[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number)))
    for name, unlabelled in (("shards", False), ("unlabelled", True)):
        options = BuildOptions("image-folder", root / "images", "train", str(root / name), unlabelled=unlabelled)
        build(options)
    return Places(root / "images", root / "shards", root / "unlabelled", root / "nothing", root / "out")


def check(line: str, sentence: str, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    status = console.run(*shlex.split(line.format(**places._asdict())))
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert sentence.format(**places._asdict()) in err
    assert out == "" and not places.out.exists()


@pytest.mark.parametrize("line", MISTAKES, ids=str)
def test_a_mistake_is_one_sentence(line: str, places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    check(line, MISTAKES[line], places, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("line", WITHOUT_A_GPU, ids=str)
def test_a_device_that_is_not_here_is_one_sentence(
    line: str, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    check(line, "there is no GPU on this machine; use --device cpu", places, capsys)
