"""Arguments that several commands of `shard-builder` share: those of a plan, and the types of values."""

import argparse
import re
import tarfile
from typing import Any

from pipeline.console.command import Flags, not_empty, num_at_once, num_bytes, path, quoted, seed
from tools.shard_builder.readers import DATASETS

_SMALLEST_SAMPLE = 4 * tarfile.BLOCKSIZE  # in a tar: label and image, one header and one block each


def add_plan_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments that decide a plan: the source, and how to cut it into shards."""
    command.add_argument(
        "--dataset", choices=tuple(DATASETS), required=True, metavar="NAME", help="see 'shard-builder datasets'"
    )
    command.add_argument("--source", type=path, required=True, metavar="DIR", help="folder of the images")
    command.add_argument(
        "--split", required=True, type=split_name, metavar="NAME", help="which part of the data set, for example train"
    )
    command.add_argument(
        "--shard-size", type=shard_size, default="256MB", metavar="SIZE", help="approximate size of each tar"
    )
    order = command.add_mutually_exclusive_group()
    order.add_argument("--shuffle-seed", type=seed, default=0, metavar="N", help="seed of the order of the images")
    order.add_argument("--no-shuffle", action="store_true", help="keep the order of the source")
    command.add_argument(
        "--unlabelled", action="store_true", help="take every image, without labels: no class folders are needed"
    )
    command.add_argument(
        "--label-column",
        type=not_empty,
        metavar="NAME",
        help="the labels of a table (default: a column of a usual name)",
    )
    command.add_argument(
        "--classes-of", type=not_empty, metavar="URL", help="number the classes as in this data set or text file"
    )
    command.add_argument("--nfc", action="store_true", help="write class names in Unicode's composed form (NFC)")
    command.add_argument("--allow-subset", action="store_true", help="accept a data set with missing classes or images")


def plan_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `BuildOptions` that come from `add_plan_arguments`."""
    fields = ("dataset", "source", "split", "allow_subset", "unlabelled", "label_column", "classes_of", "nfc")
    seed = None if args.no_shuffle else args.shuffle_seed
    return {name: getattr(args, name) for name in fields} | {"shard_bytes": args.shard_size, "shuffle_seed": seed}


def add_url_argument(command: argparse.ArgumentParser) -> None:
    """Add the URL of a finished data set."""
    command.add_argument("url", type=not_empty, metavar="URL", help="the data set: a folder or s3://BUCKET/PREFIX")


def add_workers_flag(command: Flags) -> None:
    """Add `--num-workers`: how many shards at once; None is one per core."""
    command.add_argument(
        "--num-workers", type=num_at_once, metavar="N", help="shards at once, one process each (default: one per core)"
    )


def shard_size(text: str) -> int:
    """A size in bytes that holds at least one sample; with a smaller size every image would be a shard of its own."""
    size = num_bytes(text)
    if size < _SMALLEST_SAMPLE:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is too small: a sample takes at least {_SMALLEST_SAMPLE:,} bytes; write for example 256MB"
        )
    return size


def shard_range(text: str) -> slice:
    """A range of shards: `A:B`, `A:` or `:B`."""
    match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a range of shards; write for example 0:100")
    return slice(int(match[1] or 0), int(match[2]) if match[2] else None)


def split_name(text: str) -> str:
    """The name of a split; it becomes part of file names."""
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{quoted(text)} may hold only a-z, 0-9, dash and underscore")
    return text
