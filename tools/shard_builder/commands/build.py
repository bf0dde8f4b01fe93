"""The commands `shard-builder build` and `shard-builder finalize`."""

import argparse
import json
import sys

from pipeline.telemetry import start_exporter
from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.run import BuildOptions, BuildReport, build, finalize
from tools.shard_builder.commands.arguments import Commands, add_plan_arguments, positive, shard_range, shuffle_seed


def add_build_command(commands: Commands) -> None:
    """Register `build` with the parser of `shard-builder`."""
    command = commands.add_parser("build", help="write shards, or finish an interrupted build")
    add_plan_arguments(command)
    command.add_argument("--dest", required=True, metavar="URL", help="a local folder or s3://bucket/prefix")
    command.add_argument("--deduplicate", action="store_true", help="leave out images whose bytes occurred before")
    command.add_argument("--keep-metadata", action="store_true", help="keep path, and other columns, as KEY.meta.json")
    _add_outcome_options(command)
    command.set_defaults(run=_build)

    images = command.add_argument_group("images (by default they enter byte for byte; what is changed becomes a JPEG)")
    images.add_argument("--shorter-side", type=positive, metavar="PIXELS", help="shrink to this shorter side")
    images.add_argument("--longer-side", type=positive, metavar="PIXELS", help="shrink to at most this longer side")
    images.add_argument("--to-jpeg", action="store_true", help="convert PNG, WebP, BMP, GIF, PPM and TIFF")
    images.add_argument("--jpeg-quality", type=int, choices=range(1, 101), default=95, metavar="1..100")
    images.add_argument("--grayscale", choices=("keep", "drop", "convert"), default="keep", help="drop, or to RGB")
    images.add_argument("--cmyk", choices=("keep", "drop", "convert"), default="keep", help="drop, or to RGB")
    images.add_argument("--exif", choices=("keep", "strip", "rotate"), default="keep", help="strip it, or obey it")
    images.add_argument("--decode-check", action="store_true", help="decode each in full, not only the header")

    work = command.add_argument_group("who does the work")
    work.add_argument("--engine", choices=("process", "ray"), default="process")
    work.add_argument("--ray-address", metavar="HOST:PORT", help="a running cluster; by default one starts here")
    work.add_argument("--workers", type=positive, metavar="N", help="shards at once (default: one for each core)")
    work.add_argument("--shard-range", type=shard_range, metavar="A:B", help="shards A to B-1 only; finalize later")
    work.add_argument("--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics; 0: any free port")
    work.add_argument("--metrics-address", default="127.0.0.1", metavar="HOST", help="where to listen for them")


def add_finalize_command(commands: Commands) -> None:
    """Register `finalize` with the parser of `shard-builder`."""
    command = commands.add_parser("finalize", help="write the manifest of shards that were built range by range")
    command.add_argument("--dest", required=True, metavar="URL")
    _add_outcome_options(command)
    command.set_defaults(run=_finalize)


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
                shuffle_seed=shuffle_seed(args),
                num_workers=args.workers,
                max_rejects=args.max_rejects,
                allow_subset=args.allow_subset,
                unlabelled=args.unlabelled,
                images=ImagePolicy(**{name: getattr(args, name) for name in ImagePolicy.model_fields}),
                deduplicate=args.deduplicate,
                keep_metadata=args.keep_metadata,
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
    classes = f"of {report.num_classes:,} classes" if report.num_classes else "without labels"
    holds = (
        f"{report.url}: {report.num_samples:,} samples {classes} in "
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
