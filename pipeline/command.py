"""What every console script shares: its exit codes, `--version`, the types of flags, the sentence for a missing extra.

A script parses its flags before it imports anything heavy, so `--help` and a mistyped flag answer at once, and a base
install, which has no torch, says what to install.
"""

import argparse
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable, Sequence

from pipeline.errors import UserError

EXIT_DATA_AT_FAULT = 1
"""The command ran, and what it looked at is not in order."""
EXIT_USER_ERROR = 2
"""A flag, a config, a path or a store is wrong; the message says what to do."""
EXIT_RETRY = 75
"""Stopped by a signal after a checkpoint (EX_TEMPFAIL); the same command goes on."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it

CACHE_DIR = "~/.cache/esvit-streaming"
"""Where `--cache-dir` and `data.stream.cache.folder` point by default."""

_EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "cv2": "train",
    "simplejpeg": "train",
    "safetensors": "train",
    "psutil": "train",
    "nvidia": "dali",
    "ray": "ray",
}
"""The extra that brings a module."""
_LARGEST_PORT = 65535


def new_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser whose help shows every default, with `--version`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    version = f"%(prog)s {importlib.metadata.version('esvit-streaming')}"
    parser.add_argument("--version", action="version", version=version)
    return parser


def run_command(main: Callable[[], int | None]) -> None:
    """Run the body of a console script and exit: 0 or its result, 2 on a `UserError`, 130 on Ctrl-C."""
    try:
        status = main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.stderr.write(f"error: this needs {error.name}; run: pip install 'esvit-streaming[{extra}]'\n")
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status or 0)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, 0)


def port(text: str) -> int:
    """A TCP port; 0 for any free one."""
    number = _whole(text, 0)
    if number > _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; ports go up to {_LARGEST_PORT}")
    return number


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """One word out of `choices`, for lists too long for argparse's own message."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def several_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Words out of `choices`, separated by commas."""
    parse = one_of(choices)
    return lambda text: [parse(word) for word in text.split(",")]


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)
