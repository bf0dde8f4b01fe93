"""The console script `shard-builder`: build, verify, stats."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from rich.console import Console

from pipeline.errors import run_command
from pipeline.store import Store
from tools.shard_builder.build import BuildOptions, BuildReport, build
from tools.shard_builder.readers import READERS
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

    command = commands.add_parser("build", help="write shards, or finish an interrupted build")
    command.add_argument("--dataset", choices=sorted(READERS), required=True, help="layout of the source")
    command.add_argument("--source", type=Path, required=True, metavar="DIR")
    command.add_argument("--split", required=True, type=_split, help="for example train")
    command.add_argument("--dest", required=True, metavar="URL", help="a local folder or s3://bucket/prefix")
    command.add_argument("--shard-size", type=_num_bytes, default="256MB", metavar="SIZE")
    order = command.add_mutually_exclusive_group()
    order.add_argument("--shuffle-seed", type=int, default=0, metavar="N")
    order.add_argument("--no-shuffle", action="store_true", help="keep the order of the source")
    command.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N")
    command.add_argument("--max-rejects", type=int, default=0, metavar="N", help="tolerate N bad images")
    command.add_argument("--json", action="store_true", help="report as one JSON line")
    command.set_defaults(run=_build)

    command = commands.add_parser("verify", help="check every byte of a finished data set")
    command.add_argument("url", metavar="URL")
    command.set_defaults(run=_verify)

    command = commands.add_parser("stats", help="describe a finished data set")
    command.add_argument("url", metavar="URL")
    command.add_argument("--json", action="store_true", help="as one JSON line")
    command.set_defaults(run=_stats)
    return parser


def _build(args: argparse.Namespace) -> None:
    report = build(
        BuildOptions(
            dataset=args.dataset,
            source=args.source,
            split=args.split,
            dest=args.dest,
            shard_bytes=args.shard_size,
            shuffle_seed=None if args.no_shuffle else args.shuffle_seed,
            num_workers=args.workers,
            max_rejects=args.max_rejects,
        )
    )
    sys.stdout.write((json.dumps(report.to_dict()) if args.json else _summary(report)) + "\n")


def _summary(report: BuildReport) -> str:
    holds = (
        f"{report.url}: {report.num_samples:,} samples of {report.num_classes:,} classes in "
        f"{report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB, {report.num_rejects:,} rejected"
    )
    if report.was_complete:
        return f"nothing to do, the data set is complete\n{holds}"
    rates = report.to_dict()
    return (
        f"{holds}\nwrote {report.num_samples_written:,} samples, {report.num_bytes_written / 1e6:,.1f} MB in "
        f"{report.seconds:.1f} s: {rates['mb_per_s']:,} MB/s, {rates['samples_per_s']:,} samples/s"
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _split(text: str) -> str:
    """It becomes part of file names."""
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold only a-z, 0-9, dash and underscore")
    return text
