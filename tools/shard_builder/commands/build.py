"""The commands `shard-builder build` and `shard-builder finalize`."""

import argparse
import sys

from pipeline.console.command import (
    Commands,
    add_command,
    add_json_flag,
    not_empty,
    not_negative,
    pixels,
    port,
    whole,
    write_json,
)
from pipeline.console.lines import write_line
from pipeline.errors import UserError
from pipeline.telemetry import start_exporter
from tools.shard_builder.build.images import ImagePolicy
from tools.shard_builder.build.run import BuildOptions, BuildReport, build, finalize
from tools.shard_builder.commands.arguments import add_plan_arguments, add_workers_flag, plan_options, shard_range
from tools.shard_builder.readers.wording import tally

_POLICIES = ("keep", "drop", "convert")
_LOCALHOST = "127.0.0.1"


class BuildFlagsError(UserError):
    """Two flags of `build` contradict each other."""


def add_build_command(commands: Commands) -> None:
    """Register `build` with the parser of `shard-builder`."""
    command = add_command(commands, "build", "write shards, or continue an interrupted build", _build)
    add_plan_arguments(command)
    _add_dest_flag(command)
    command.add_argument(
        "--deduplicate", action="store_true", help="leave out images with the same bytes as another one"
    )
    command.add_argument(
        "--keep-metadata", action="store_true", help="keep the path and other columns as KEY.meta.json"
    )
    _add_outcome_options(command)

    images = command.add_argument_group(
        "images (copied byte for byte by default; an image that is changed becomes a JPEG)"
    )
    images.add_argument("--shorter-side", type=pixels, metavar="PIXELS", help="shrink images to this shorter side")
    images.add_argument(
        "--longer-side", type=pixels, metavar="PIXELS", help="shrink images to at most this longer side"
    )
    images.add_argument("--to-jpeg", action="store_true", help="convert PNG, WebP, BMP, GIF, PPM and TIFF")
    images.add_argument(
        "--jpeg-quality", type=whole(1, 100), default=95, metavar="N", help="1 to 100, for images that are changed"
    )
    images.add_argument("--grayscale", choices=_POLICIES, default="keep", help="images of one channel; convert: to RGB")
    images.add_argument("--cmyk", choices=_POLICIES, default="keep", help="CMYK images; convert: to RGB")
    images.add_argument(
        "--exif", choices=("keep", "strip", "rotate"), default="keep", help="EXIF metadata; rotate: turn images upright"
    )
    images.add_argument("--decode-check", action="store_true", help="decode every image in full, not only its header")

    work = command.add_argument_group("who does the work")
    engines = ("process", "ray")
    work.add_argument(
        "--engine", choices=engines, default="process", help="processes of this machine, or a Ray cluster"
    )
    work.add_argument(
        "--ray-address", type=not_empty, metavar="HOST:PORT", help="a running Ray cluster (default: one starts here)"
    )
    add_workers_flag(work)
    work.add_argument(
        "--shard-range", type=shard_range, metavar="A:B", help="build only shards A to B-1; run finalize at the end"
    )
    work.add_argument(
        "--metrics-port", type=port, metavar="PORT", help="serve Prometheus metrics on this port; 0: any free port"
    )
    work.add_argument(
        "--metrics-address", type=not_empty, metavar="HOST", help=f"address of the metrics (default: {_LOCALHOST})"
    )


def add_finalize_command(commands: Commands) -> None:
    """Register `finalize` with the parser of `shard-builder`."""
    summary = "write the manifest of shards that were built range by range"
    command = add_command(commands, "finalize", summary, _finalize)
    _add_dest_flag(command)
    _add_outcome_options(command)


def _add_dest_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dest", type=not_empty, required=True, metavar="URL", help="a local folder or s3://BUCKET/PREFIX"
    )


def _add_outcome_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-rejects", type=not_negative, default=0, metavar="N", help="number of bad images to accept"
    )
    add_json_flag(command)


def _build(args: argparse.Namespace) -> None:
    _check(args)
    if args.metrics_port is not None:
        address = args.metrics_address or _LOCALHOST
        sys.stderr.write(f"metrics: http://{address}:{start_exporter(args.metrics_port, address)}/metrics\n")
    _report(
        build(
            BuildOptions(
                **plan_options(args),
                dest=args.dest,
                num_workers=args.num_workers,
                max_rejects=args.max_rejects,
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


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect or contradict each other."""
    if args.ray_address and args.engine != "ray":
        raise BuildFlagsError("--ray-address needs --engine ray; add --engine ray, or leave out --ray-address")
    if args.metrics_address and args.metrics_port is None:
        raise BuildFlagsError(
            "--metrics-address needs --metrics-port; add --metrics-port, or leave out --metrics-address"
        )
    if args.shorter_side and args.longer_side and args.longer_side < args.shorter_side:
        raise BuildFlagsError(
            f"--longer-side {args.longer_side} is less than --shorter-side {args.shorter_side}; "
            "raise the one or lower the other"
        )


def _finalize(args: argparse.Namespace) -> None:
    _report(finalize(args.dest, args.max_rejects), args.json)


def _report(report: BuildReport, as_json: bool) -> None:
    if as_json:
        write_json(report.to_dict())
    else:
        for line in _summary(report):
            write_line(line)


def _summary(report: BuildReport) -> list[str]:
    classes = f"of {report.num_classes:,} classes" if report.num_classes else "without labels"
    holds = (
        f"{report.url}: {report.num_samples:,} samples {classes} in "
        f"{report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB, {report.num_rejects:,} rejected"
    )
    if report.rejects:
        holds += f" ({tally(report.rejects)})"
    if report.left_out:
        holds += f"; {sum(report.left_out.values()):,} files left out, which are no images ({tally(report.left_out)})"
    if report.was_complete:
        return ["nothing to do, the data set is complete", holds]
    wrote = f"wrote {report.num_samples_written:,} samples, {report.num_bytes_written / 1e6:,.1f} MB"
    rates = report.to_dict()
    if rates["mb_per_s"] is not None:
        wrote += f" in {report.seconds:.1f} s: {rates['mb_per_s']:,} MB/s, {rates['samples_per_s']:,} samples/s"
    if report.manifest_digest:
        return [holds, wrote]
    rest = f"the plan has {report.num_planned_shards:,} shards; when all are written, run "
    return [wrote, f"{rest}'shard-builder finalize --dest {report.url}'"]
