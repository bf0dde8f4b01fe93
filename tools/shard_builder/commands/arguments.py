"""What several commands of `shard-builder` take: the arguments that decide a plan, and the types of values."""

import argparse
import re
from pathlib import Path
from typing import TypeAlias

from tools.shard_builder.readers import DATASETS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a command registers itself."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def add_plan_arguments(command: argparse.ArgumentParser) -> None:
    """What to build from, and how it is cut into shards."""
    command.add_argument(
        "--dataset", choices=DATASETS, required=True, metavar="NAME", help="see 'shard-builder datasets'"
    )
    command.add_argument("--source", type=Path, required=True, metavar="DIR")
    command.add_argument("--split", required=True, type=split_name, help="for example train")
    command.add_argument("--shard-size", type=num_bytes, default="256MB", metavar="SIZE")
    order = command.add_mutually_exclusive_group()
    order.add_argument("--shuffle-seed", type=int, default=0, metavar="N")
    order.add_argument("--no-shuffle", action="store_true", help="keep the order of the source")
    command.add_argument(
        "--unlabelled", action="store_true", help="take every image, without labels: no class folders are needed"
    )
    command.add_argument("--allow-subset", action="store_true", help="take a data set with classes or images missing")


def shuffle_seed(args: argparse.Namespace) -> int | None:
    """None keeps the order of the source."""
    return None if args.no_shuffle else args.shuffle_seed


def num_bytes(text: str) -> int:
    """256MB, 1GiB or a plain number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?)?B?", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 256MB or 1GiB")
    return size


def shard_range(text: str) -> slice:
    """`A:B`, `A:` or `:B`."""
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write for example 0:100")
    return slice(int(match[1] or 0), int(match[2]) if match[2] else None)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def split_name(text: str) -> str:
    """It becomes part of file names."""
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold only a-z, 0-9, dash and underscore")
    return text
