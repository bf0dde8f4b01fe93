"""The console script `shard-builder`: datasets, build, finalize, verify, stats, bench."""

import argparse
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from pipeline.errors import run_command
from pipeline.store import Store
from pipeline.telemetry import start_exporter
from tools.shard_builder.bench import add_bench_command
from tools.shard_builder.build import BuildOptions, BuildReport, build, finalize
from tools.shard_builder.datasets import add_datasets_command
from tools.shard_builder.images import ImagePolicy
from tools.shard_builder.readers import DATASETS
from tools.shard_builder.stats import collect_stats, render_stats
from tools.shard_builder.verify import verify

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def main() -> None:
    """Entry point: parse the arguments, run the command, exit with its status."""
    args = _parser().parse_args()
    run_command(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shard-builder", description="Build, verify and describe tar shards for training."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_datasets_command(commands)

    _add_build_command(commands)

    command = commands.add_parser("finalize", help="write the manifest of shards that were built range by range")
    command.add_argument("--dest", required=True, metavar="URL")
    _add_outcome_options(command)
    command.set_defaults(run=_finalize)

    add_bench_command(commands)

    command = commands.add_parser("verify", help="check every byte of a finished data set")
    command.add_argument("url", metavar="URL")
    command.set_defaults(run=_verify)

    command = commands.add_parser("stats", help="describe a finished data set")
    command.add_argument("url", metavar="URL")
    command.add_argument("--json", action="store_true", help="as one JSON line")
    command.set_defaults(run=_stats)
    return parser


def _add_build_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("build", help="write shards, or finish an interrupted build")
    command.add_argument(
        "--dataset", choices=DATASETS, required=True, metavar="NAME", help="see 'shard-builder datasets'"
    )
    command.add_argument("--source", type=Path, required=True, metavar="DIR")
    command.add_argument("--split", required=True, type=_split, help="for example train")
    command.add_argument("--dest", required=True, metavar="URL", help="a local folder or s3://bucket/prefix")
    command.add_argument("--shard-size", type=_num_bytes, default="256MB", metavar="SIZE")
    order = command.add_mutually_exclusive_group()
    order.add_argument("--shuffle-seed", type=int, default=0, metavar="N")
    order.add_argument("--no-shuffle", action="store_true", help="keep the order of the source")
    command.add_argument("--allow-subset", action="store_true", help="take a data set with classes or images missing")
    command.add_argument("--deduplicate", action="store_true", help="leave out images whose bytes occurred before")
    _add_outcome_options(command)
    command.set_defaults(run=_build)

    images = command.add_argument_group("images (by default they enter byte for byte; what is changed becomes a JPEG)")
    images.add_argument("--shorter-side", type=_positive, metavar="PIXELS", help="shrink to this shorter side")
    images.add_argument("--longer-side", type=_positive, metavar="PIXELS", help="shrink to at most this longer side")
    images.add_argument("--to-jpeg", action="store_true", help="convert PNG, WebP, BMP, GIF, PPM and TIFF")
    images.add_argument("--jpeg-quality", type=int, choices=range(1, 101), default=95, metavar="1..100")
    images.add_argument("--grayscale", choices=("keep", "drop", "convert"), default="keep", help="drop, or to RGB")
    images.add_argument("--cmyk", choices=("keep", "drop", "convert"), default="keep", help="drop, or to RGB")
    images.add_argument("--exif", choices=("keep", "strip", "rotate"), default="keep", help="strip it, or obey it")
    images.add_argument("--decode-check", action="store_true", help="decode each in full, not only the header")

    work = command.add_argument_group("who does the work")
    work.add_argument("--engine", choices=("process", "ray"), default="process")
    work.add_argument("--ray-address", metavar="HOST:PORT", help="a running cluster; by default one starts here")
    work.add_argument("--workers", type=_positive, metavar="N", help="shards at once (default: one for each core)")
    work.add_argument("--shard-range", type=_range, metavar="A:B", help="only shards A to B-1; finalize afterwards")
    work.add_argument("--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics; 0: any free port")
    work.add_argument("--metrics-address", default="127.0.0.1", metavar="HOST", help="where to listen for them")


def _add_outcome_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--max-rejects", type=int, default=0, metavar="N", help="tolerate N bad images")
    command.add_argument("--json", action="store_true", help="report as one JSON line")


def _build(args: argparse.Namespace) -> None:
    if args.metrics_port is not None:
        port = start_exporter(args.metrics_port, args.metrics_address)
        sys.stderr.write(f"metrics: http://{args.metrics_address}:{port}/metrics\n")
    _report(
        build(
            BuildOptions(
                dataset=args.dataset,
                source=args.source,
                split=args.split,
                dest=args.dest,
                shard_bytes=args.shard_size,
                shuffle_seed=None if args.no_shuffle else args.shuffle_seed,
                num_workers=args.workers,
                max_rejects=args.max_rejects,
                allow_subset=args.allow_subset,
                images=ImagePolicy(**{name: getattr(args, name) for name in ImagePolicy.model_fields}),
                deduplicate=args.deduplicate,
                engine=args.engine,
                ray_address=args.ray_address,
                shard_range=args.shard_range,
            )
        ),
        args.json,
    )


def _finalize(args: argparse.Namespace) -> None:
    _report(finalize(args.dest, args.max_rejects), args.json)


def _report(report: BuildReport, as_json: bool) -> None:
    sys.stdout.write((json.dumps(report.to_dict()) if as_json else _summary(report)) + "\n")


def _summary(report: BuildReport) -> str:
    holds = (
        f"{report.url}: {report.num_samples:,} samples of {report.num_classes:,} classes in "
        f"{report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB, {report.num_rejects:,} rejected"
    )
    if report.was_complete:
        return f"nothing to do, the data set is complete\n{holds}"
    rates = report.to_dict()
    wrote = (
        f"wrote {report.num_samples_written:,} samples, {report.num_bytes_written / 1e6:,.1f} MB in "
        f"{report.seconds:.1f} s: {rates['mb_per_s']:,} MB/s, {rates['samples_per_s']:,} samples/s"
    )
    if report.manifest_digest:
        return f"{holds}\n{wrote}"
    return (
        f"{wrote}\nthe plan has {report.num_planned_shards:,} shards; when all are there, run "
        f"'shard-builder finalize --dest {report.url}'"
    )


def _verify(args: argparse.Namespace) -> int:
    manifest, problems = verify(Store(args.url))
    if not problems:
        sys.stdout.write(
            f"ok: {len(manifest.shards)} shards, {manifest.num_samples} samples, {manifest.num_bytes} bytes\n"
        )
        return 0
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(f"not ok: {len(problems)} problems\n")
    return 1


def _stats(args: argparse.Namespace) -> None:
    stats = collect_stats(Store(args.url))
    if args.json:
        sys.stdout.write(json.dumps(stats) + "\n")
    else:
        render_stats(stats, Console())


def _num_bytes(text: str) -> int:
    """256MB, 1GiB or a plain number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?)?B?", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 256MB or 1GiB")
    return size


def _range(text: str) -> slice:
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write for example 0:100")
    return slice(int(match[1] or 0), int(match[2]) if match[2] else None)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _split(text: str) -> str:
    """It becomes part of file names."""
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold only a-z, 0-9, dash and underscore")
    return text
